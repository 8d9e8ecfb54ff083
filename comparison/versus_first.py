"""Strategies against the first one of a comparison: paired differences of fairness figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from comparison import plan
from comparison.cells import CellResult
from comparison.figures import ROLES, MethodFigures
from task.statistics import student_interval

METRICS = ("alignment_score", "worst_group", "worst_decile", "cov", "fairness_index")

NOTE = (
    "Paired differences, seed by seed; intervals are 95 % t intervals over seeds, each by itself: "
    "they are about other seeds, not about other groups, and not corrected for their number. Worst "
    "group and decile are the lowest of each seed, whichever groups they are."
)


def versus_first(
    methods: Sequence[str],
    by_method: Mapping[str, Mapping[int, Sequence[CellResult]]],
    *,
    intervals: bool,
) -> dict[str, Any]:
    """Return the differences of all federated methods from the first: `versus` and `roles`.

    Args:
        methods: all methods, in the order of the comparison.
        by_method: method to seed to the results of its folds, for those that have any.
        intervals: whether intervals are wanted; they need at least two seeds.
    """
    first, *others = [m for m in methods if m.split()[0] == plan.FEDERATED] or [""]
    roles: dict[str, dict[str, Any]] = {}
    for key, role in ROLES.items():
        for method in others:
            seeds = sorted(set(by_method.get(method, ())) & set(by_method.get(first, ())))
            if not seeds:
                continue
            ours, theirs = (
                MethodFigures({s: by_method[m][s] for s in seeds}, intervals=False).per_seed(role)
                for m in (method, first)
            )
            if ours:
                roles.setdefault(key, {})[method] = {
                    metric: _difference(ours[metric], theirs[metric], intervals=intervals)
                    for metric in METRICS
                }
    return {"versus": first, "roles": roles, "note": NOTE}


def _difference(
    ours: Sequence[float], theirs: Sequence[float], *, intervals: bool
) -> dict[str, Any]:
    per_seed = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(per_seed) / len(per_seed)
    low, high = None, None
    if intervals and len(per_seed) > 1 and not any(map(math.isnan, per_seed)):
        low, high = student_interval(per_seed)
    return {"mean": mean, "low": low, "high": high, "per_seed": per_seed}
