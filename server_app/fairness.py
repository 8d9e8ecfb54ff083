"""Fairness over groups: scores merged per group, then summed up for each role."""

import math
from collections.abc import Mapping
from typing import Any

from task.metrics import Calibration, Fairness, GroupScores, macro_mean
from task.roles import Role

Scores = Mapping[str, GroupScores]
"""Group name to its scores."""

ROLE_KEYS: dict[Role, str] = {"held-out": "held_out", "train": "train"}


def summarise(scores: Scores, roles: Mapping[str, Role], role: Role) -> dict[str, Any] | None:
    """Return the entry of `summary.json` for a role; None when it has no groups.

    Indices are over groups, for all questions and for seen and new ones apart; a split that no
    group has questions of is None, its indices empty. The calibration error is of all groups'
    options together, everything else a mean over groups.
    """
    if role not in {roles[group] for group in scores}:
        return None
    chosen = {group: s for group, s in scores.items() if roles[group] == role}
    seen, new = (
        indices({group: getattr(s, split).value for group, s in chosen.items()})
        for split in ("seen", "new")
    )
    # Bins of a single group hold few options, whose scatter would look like an error.
    pooled = sum((s.calibration for s in chosen.values()), Calibration())
    return {
        **indices({group: s.all.value for group, s in chosen.items()}),
        "alignment_score_seen_questions": seen.get("alignment_score"),
        "alignment_score_new_questions": new.get("alignment_score"),
        "seen_questions": seen,
        "new_questions": new,
        "top_option_accuracy": number(macro_mean(s.top_option for s in chosen.values())),
        "calibration_error": number(pooled.error),
    }


def indices(scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the indices over the groups that have a score; empty when none has."""
    known = {group: score for group, score in scores.items() if not math.isnan(score)}
    if not known:
        return {}
    fairness = Fairness.of(known)
    return {
        "alignment_score": fairness.mean,
        "worst_group": fairness.worst,
        "worst_group_name": fairness.worst_group,
        "worst_decile": fairness.worst_decile,
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
            "top_option_accuracy": number(scores.top_option.value),
            "calibration_error": number(scores.calibration.error),
            **{name: baseline[group].all.value for name, baseline in baselines.items()},
        }
        for group, scores in sorted(model.items())
    }


def number(value: float) -> float | None:
    """Return None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value
