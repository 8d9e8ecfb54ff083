"""The figures of one method: for each seed over groups and folds, then with intervals over seeds.

Folds of a seed are put together first: every group is held out in one of them, and trains in the
others.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from comparison.cells import CellResult, Point
from task.metrics import Calibration, Fairness, GroupScores, macro_mean
from task.roles import Role
from task.statistics import bootstrap_interval, first_within

ROLES: dict[str, Role] = {"held_out": "held-out", "train": "train"}
"""Keys of roles in results, and roles."""

Interval = dict[str, Any]
"""`mean`, `low` and `high` (None without intervals) and `per_seed`."""


def interval(values: Sequence[float], *, intervals: bool) -> Interval:
    """Return mean and 95 % bootstrap interval over seeds, and the values."""
    if not values:
        return {"mean": None, "low": None, "high": None, "per_seed": []}
    low, high = bootstrap_interval(values) if intervals else (None, None)
    mean = sum(values) / len(values)
    return {"mean": mean, "low": low, "high": high, "per_seed": list(values)}


class MethodFigures:
    """What some cells of one method show.

    Args:
        by_seed: seed to the results of its folds.
        intervals: whether intervals are wanted; they need at least two seeds.
    """

    def __init__(self, by_seed: Mapping[int, Sequence[CellResult]], *, intervals: bool) -> None:
        self._folds = list(by_seed.values())
        self._intervals = intervals and len(by_seed) > 1

    def scores(self, seed_index: int, role: Role) -> dict[str, GroupScores]:
        """Return each group's final scores in the folds in which it has this role."""
        merged: dict[str, GroupScores] = {}
        for result in self._folds[seed_index]:
            for group, scores in result.scores.items():
                if result.roles[group] == role:
                    merged[group] = merged.get(group, GroupScores()) + scores
        return merged

    def table(self) -> dict[str, dict[str, Interval | None]]:
        """Return the entry of `table`: metrics for each role, and costs."""
        roles = {key: self._of_role(role) for key, role in ROLES.items()}
        return {**roles, "cost": self._cost()}

    def per_seed(self, role: Role) -> dict[str, list[float]]:
        """Return the metrics of a role for each seed, NaN where a seed has none."""
        return _transposed([self._metrics(index, role) for index in range(len(self._folds))])

    def curve(self) -> list[dict[str, Any]]:
        """Return the entry of `curves`: empty for what does not learn step by step."""
        seeds = [self._seed_curve(index) for index in range(len(self._folds))]
        points = []
        for same_round in zip(*seeds, strict=False):
            first = same_round[0]
            held_out, train = (
                [curve[key] for curve in same_round if not math.isnan(curve[key])] for key in ROLES
            )
            points.append(
                {
                    "round": first["round"],
                    "optimizer_steps": first["optimizer_steps"],
                    "seconds": _mean([curve["seconds"] for curve in same_round]),
                    "megabytes": _mean([curve["megabytes"] for curve in same_round]),
                    "held_out": self._interval(held_out) if held_out else None,
                    "train": self._interval(train) if train else None,
                    "groups": _means_by_group([curve["groups"] for curve in same_round]),
                }
            )
        return points

    def groups(self) -> dict[str, dict[str, Any]]:
        """Return the entry of `groups`: each group's scores, where it is held out if it ever is."""
        per_seed = [
            self.scores(index, "train") | self.scores(index, "held-out")
            for index in range(len(self._folds))
        ]
        roles: dict[str, set[str]] = {}
        for folds in self._folds:
            for result in folds:
                for group, role in result.roles.items():
                    roles.setdefault(group, set()).add(role)
        entries = {}
        for group, seen_as in sorted(roles.items()):
            scores = [each[group] for each in per_seed if group in each]
            entries[group] = {
                "role": "both" if len(seen_as) > 1 else next(iter(seen_as)),
                "alignment_score": self._interval([s.all.value for s in scores]),
                "alignment_score_seen_questions": _mean_or_none([s.seen.value for s in scores]),
                "alignment_score_new_questions": _mean_or_none([s.new.value for s in scores]),
            }
        return entries

    def few_shot(self) -> dict[str, Interval]:
        """Return the entry of `few_shot`: context size to macro mean over groups."""
        by_size: dict[int, list[float]] = {}
        for folds in self._folds:
            sizes: dict[int, list[float]] = {}
            for result in folds:
                for size, groups in result.few_shot.items():
                    sizes.setdefault(size, []).extend(groups.values())
            for size, values in sizes.items():
                if values:
                    by_size.setdefault(size, []).append(_mean(values))
        return {str(size): self._interval(values) for size, values in sorted(by_size.items())}

    def reliability(self) -> list[dict[str, float]]:
        """Return the entry of `reliability`: the held-out groups' options in bins."""
        role: Role = "held-out" if self.scores(0, "held-out") else "train"
        bins = [
            scores.calibration
            for index in range(len(self._folds))
            for scores in self.scores(index, role).values()
        ]
        total = reduce(add, bins, Calibration())
        return [
            {"predicted": predicted / options, "true": true / options, "options": options}
            for options, predicted, true in zip(
                total.options, total.predicted, total.true, strict=True
            )
            if options
        ]

    def _interval(self, values: Sequence[float]) -> Interval:
        return interval(values, intervals=self._intervals and len(values) > 1)

    def _of_role(self, role: Role) -> dict[str, Interval | None]:
        return {
            metric: None if any(map(math.isnan, values)) else self._interval(values)
            for metric, values in self.per_seed(role).items()
        }

    def _metrics(self, seed_index: int, role: Role) -> dict[str, float]:
        scores = self.scores(seed_index, role)
        if not scores:
            return {}
        fairness = Fairness.of({group: each.all.value for group, each in scores.items()})
        calibration = reduce(add, (each.calibration for each in scores.values()))
        return {
            "alignment_score": fairness.mean,
            "alignment_score_seen_questions": macro_mean(s.seen for s in scores.values()),
            "alignment_score_new_questions": macro_mean(s.new for s in scores.values()),
            "worst_group": fairness.worst,
            "worst_decile": fairness.worst_decile,
            "gap": fairness.gap,
            "cov": fairness.cov,
            "fairness_index": fairness.fairness_index,
            "top_option_accuracy": macro_mean(s.top_option for s in scores.values()),
            "calibration_error": calibration.error,
            **self._convergence(seed_index, role),
        }

    def _convergence(self, seed_index: int, role: Role) -> dict[str, float]:
        """Return rounds and steps to 95 %, NaN for what does not learn step by step."""
        curve = self._seed_curve(seed_index)
        key = next(key for key, value in ROLES.items() if value == role)
        found = {}
        for suffix, of_gain in (("", False), ("_of_gain", True)):
            for name, axis in (("rounds", "round"), ("steps", "optimizer_steps")):
                found[f"{name}_to_95{suffix}"] = (
                    first_within([p[key] for p in curve], [p[axis] for p in curve], of_gain=of_gain)
                    if curve
                    else math.nan
                )
        return found

    def _seed_curve(self, seed_index: int) -> list[dict[str, Any]]:
        """Return a seed's curve over all its folds together."""
        results = self._folds[seed_index]
        merged = []
        for points in zip(*(result.points for result in results), strict=False):
            of_role: dict[str, list[float]] = {key: [] for key in ROLES}
            for point, result in zip(points, results, strict=True):
                for key, role in ROLES.items():
                    of_role[key] += [
                        score for g, score in point.groups.items() if result.roles[g] == role
                    ]
            merged.append(
                {
                    "round": points[0].round,
                    "optimizer_steps": points[0].optimizer_steps,
                    "episodes": _mean([point.episodes for point in points]),
                    "seconds": _mean([point.seconds for point in points]),
                    "megabytes": _mean([point.megabytes for point in points]),
                    **{key: _mean(values) for key, values in of_role.items()},
                    "groups": _where_held_out(points, results),
                }
            )
        return merged

    def _cost(self) -> dict[str, Interval | None]:
        lasts = [curve[-1] for i in range(len(self._folds)) if (curve := self._seed_curve(i))]
        costs = {name: [last[axis] for last in lasts] for name, axis in _COSTS.items()}
        return {name: self._interval(values) if values else None for name, values in costs.items()}


_COSTS = {
    "rounds": "round",
    "optimizer_steps": "optimizer_steps",
    "episodes": "episodes",
    "seconds": "seconds",
    "megabytes": "megabytes",
}


def _where_held_out(points: Sequence[Point], results: Sequence[CellResult]) -> dict[str, float]:
    """Return each group's score from the fold in which it is held out, if there is one."""
    train, held_out = (
        _means_by_group(
            [
                {g: s for g, s in point.groups.items() if result.roles[g] == role}
                for point, result in zip(points, results, strict=True)
            ]
        )
        for role in ("train", "held-out")
    )
    return train | held_out


def _means_by_group(maps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for each in maps:
        for group, value in each.items():
            values.setdefault(group, []).append(value)
    return {group: _mean(each) for group, each in sorted(values.items())}


def _transposed(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows if row] for key in next((r for r in rows if r), {})}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _mean_or_none(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return _mean(known) if known else None
