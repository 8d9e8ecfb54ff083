"""Fairness over groups: scores merged per group, then summed up for each role."""

import math
from collections.abc import Mapping
from typing import Any

from task.metrics import Fairness, GroupScores, macro_mean
from task.roles import Role

Scores = Mapping[str, GroupScores]
"""Group name to its scores."""

ROLE_KEYS: dict[Role, str] = {"held-out": "held_out", "train": "train"}


def fairness_of(scores: Scores, roles: Mapping[str, Role], role: Role) -> Fairness | None:
    """Return the fairness indices over the groups of a role; None when it has none."""
    values = {group: s.all.value for group, s in scores.items() if roles[group] == role}
    return Fairness.of(values) if values else None


def summarise(scores: Scores, roles: Mapping[str, Role], role: Role) -> dict[str, Any] | None:
    """Return the entry of `summary.json` for a role; None when it has no groups.

    Means are macro means over groups; a split that no group has questions of is None.
    """
    fairness = fairness_of(scores, roles, role)
    if fairness is None:
        return None
    chosen = [s for group, s in scores.items() if roles[group] == role]
    return {
        "alignment_score": fairness.mean,
        "alignment_score_seen_questions": number(macro_mean(s.seen for s in chosen)),
        "alignment_score_new_questions": number(macro_mean(s.new for s in chosen)),
        "worst_group": fairness.worst,
        "worst_group_name": fairness.worst_group,
        "gap": fairness.gap,
        "cov": fairness.cov,
        "fairness_index": fairness.fairness_index,
    }


def group_table(
    model: Scores, baselines: Mapping[str, Scores], roles: Mapping[str, Role]
) -> dict[str, dict[str, Any]]:
    """Return one entry per group: role, scores, and the baselines' scores beside."""
    return {
        group: {
            "role": roles[group],
            "alignment_score": scores.all.value,
            "alignment_score_seen_questions": number(scores.seen.value),
            "alignment_score_new_questions": number(scores.new.value),
            **{name: baseline[group].all.value for name, baseline in baselines.items()},
        }
        for group, scores in sorted(model.items())
    }


def number(value: float) -> float | None:
    """Return None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value
