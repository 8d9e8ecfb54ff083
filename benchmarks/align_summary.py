"""What policies gained over their base model, over seeds, and the claims that follow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from task.statistics import student_interval


def summary(per_seed: Mapping[int, Mapping[str, Any]], own: Sequence[str]) -> dict[str, Any]:
    """Return what the policies gained, and what the optimum of their reward would have gained.

    Args:
        per_seed: `metrics.json` of each seed.
        own: the groups that are aligned to alone.
    """
    runs = list(per_seed.values())
    groups = sorted(set.intersection(*(set(run["base"]["groups"]) for run in runs)))
    targets = list(runs[0]["targets"])

    def over_seeds(*names: str, part: str = "") -> dict[str, dict[str, dict[str, float]]]:
        """Return intervals of figures that each run gives for each target."""
        entries = {t: [run["targets"][t] for run in runs] for t in targets}
        if part:
            entries = {t: [entry[part] for entry in of] for t, of in entries.items()}
        return {
            t: {name: interval([entry[name] for entry in of]) for name in names}
            for t, of in entries.items()
        }

    return {
        "base": {g: interval([run["base"]["groups"][g] for run in runs]) for g in groups},
        **gains(runs, groups, targets, own, "alignment"),
        "of_the_optimum": gains(runs, groups, targets, own, "optimum"),
        "figures": over_seeds("win_rate", "kl_answers", "similarity_to_optimum", "outside"),
        "training": over_seeds(
            "reward_share_of_step",
            "scored_pairs_per_second",
            "generated_completions_per_second",
            part="training",
        ),
    }


def gains(
    runs: Sequence[Mapping[str, Any]],
    groups: Sequence[str],
    targets: Sequence[str],
    own: Sequence[str],
    of: str,
) -> dict[str, Any]:
    """Return gains over the base model of groups under each target, and the two claims.

    Args:
        runs: `metrics.json` of each seed.
        groups: those that all runs scored.
        targets: what was aligned to.
        own: the groups that are aligned to alone; figures of several are averaged in each run.
        of: the scores that count, `alignment` (the policy's) or `optimum` (what the reward's
            optimum would score).
    """

    def score(run: Mapping[str, Any], target: str, group: str) -> float:
        after: float = run["targets"][target][of]["groups"][group]
        before: float = run["base"]["groups"][group]
        return after - before

    gain = {t: {g: np.array([score(run, t, g) for run in runs]) for g in groups} for t in targets}
    worst = {
        t: np.array([run["targets"][t][of]["worst"] - run["base"]["worst"] for run in runs])
        for t in targets
    }
    found: dict[str, Any] = {
        "gain": {t: {g: interval(v) for g, v in by.items()} for t, by in gain.items()},
        "mean_gain": {t: interval(np.mean(list(by.values()), axis=0)) for t, by in gain.items()},
        "worst_gain": {t: interval(v) for t, v in worst.items()},
    }
    alone = {f"group:{group}": group for group in own}
    if alone.keys() <= gain.keys() and len(groups) > 1:
        others = [
            gain[t][g] - np.mean([gain[t][other] for other in groups if other != g], axis=0)
            for t, g in alone.items()
        ]
        largest = [gain[t][g] == np.max(list(gain[t].values()), axis=0) for t, g in alone.items()]
        found["one_group"] = {
            "own_gain_minus_mean_gain_of_others": interval(np.mean(others, axis=0)),
            "own_gain_is_largest": int(np.sum(largest)),
            "of": len(alone) * len(runs),
            "own_gain_minus_its_gain_under": {
                rule: interval(
                    np.mean([gain[t][g] - gain[rule][g] for t, g in alone.items()], axis=0)
                )
                for rule in gain
                if rule not in alone
            },
        }
    if "min" in worst:
        found["maximin"] = {
            "worst_gain_minus_that_under": {
                t: interval(worst["min"] - v) for t, v in worst.items() if t != "min"
            },
        }
    return found


def interval(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return mean and 95 % t interval over seeds; of one seed there is no interval."""
    found = {"mean": float(np.mean(values))}
    if len(values) > 1:
        found["low"], found["high"] = student_interval([float(value) for value in values])
    return found
