"""Predicted against true answers, question by question, for the groups of a run.

Reads the survey at report time, which is possible in a simulation only: there the report is made
where the answers are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from report.blocks import Block, Explorer, Section, Text
from task.baselines import seen_question_keys
from task.clients import group_of
from task.config import RunConfig
from task.episodes import Split
from task.errors import UserError
from task.evaluation import evaluation_splits, predict_with, true_distributions
from task.features import GroupData, load_group, load_roles
from task.metrics import alignment_score
from task.saved_predictor import load_predictor
from task.settings import Scalar
from task.sources import load_survey
from task.survey import Survey

MOST_GROUPS = 60
"""With more groups than this, the worst predicted of them are shown."""

EACH = 3
"""Questions shown of the best, the median and the worst."""

NOISY = (
    " All shares that are called true carry the noise of privacy.unit = member: no exact answer "
    "was read."
)
NOTE = (
    "Shares of the group's people that chose an option, and the shares that the final predictor "
    "gives it from the context questions of the first evaluation draw. Scores in this section are "
    "of that draw alone; the other sections average all draws."
)


def question_section(
    run: Path, settings: Mapping[str, Scalar], scores: Mapping[str, float]
) -> Section:
    """Return the question explorer of a run, or the section that says why there is none.

    Args:
        run: the run directory.
        settings: its settings, with dotted keys.
        scores: group to alignment score, as far as known.
    """
    blocks: Sequence[Block]
    try:
        groups = explored_groups(run, settings, scores)
    except (UserError, OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error) or type(error).__name__
        blocks = [Text(f"Questions cannot be shown on this machine. {reason}")]
    else:
        note = NOTE + (NOISY if settings.get("privacy.unit") == "member" else "")
        if len(scores) > len(groups):
            note += f" Of {len(scores)} groups, the {len(groups)} worst predicted are listed."
        blocks = [Explorer(groups, note)] if groups else [Text("No group has target questions.")]
    return Section("questions", "Predicted against true answers", blocks)


def explored_groups(
    run: Path, settings: Mapping[str, Scalar], scores: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return an entry per group with its best, median and worst predicted target questions.

    Raises:
        UserError: settings, survey, encoder or predictor cannot be loaded here.
    """
    config = RunConfig.from_flat(settings)
    predictor = load_predictor(run, "final")
    survey = load_survey(config)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    keys = {group: survey.question_keys[survey.answers[group].questions] for group in roles}
    seen = seen_question_keys(keys, roles)
    predict = predict_with(predictor, predictor.prior)
    entries = []
    of_clients = {client: scores.get(group_of(client, config.data), 2.0) for client in roles}
    for group in _chosen(of_clients):
        data = load_group(config, group)
        split = evaluation_splits(data, config.evaluation, config.run.seed)[0]
        if len(split.target):
            predicted_QO = predict(data, split)
            entries.append(_entry(predicted_QO, survey, data, split, seen[data.role]))
    return sorted(entries, key=lambda entry: (entry["role"], entry["name"]))


def _chosen(scores: Mapping[str, float]) -> list[str]:
    groups = sorted(scores, key=lambda group: (scores[group], group))
    return groups[:MOST_GROUPS]


def _entry(
    predicted_QO: NDArray[np.floating],
    survey: Survey,
    data: GroupData,
    split: Split,
    seen_keys: NDArray[np.int64],
) -> dict[str, Any]:
    true_QO = true_distributions(data, split.target)
    score_Q = alignment_score(
        torch.from_numpy(predicted_QO.astype(np.float64)),
        torch.from_numpy(true_QO.astype(np.float64)),
    ).numpy()
    seen_Q = np.isin(data.question_keys[split.target], seen_keys)
    questions = []
    for rank, index in ranked(score_Q):
        position = int(split.target[index])
        question = survey.questions[data.answers.questions[position]]
        number = len(question.options)
        questions.append(
            {
                "rank": rank,
                "text": question.text,
                "options": list(question.options),
                "true": _rounded(data.answers.distribution(position)),
                "predicted": _rounded(predicted_QO[index, :number]),
                "score": round(float(score_Q[index]), 4),
                "seen": bool(seen_Q[index]),
            }
        )
    return {
        "name": data.group,
        "role": "held-out" if data.role == "held-out" else "training",
        "mean": round(float(score_Q.mean()), 4),
        "targets": len(score_Q),
        "questions": questions,
    }


def ranked(score_Q: NDArray[np.floating]) -> list[tuple[str, int]]:
    """Return (`best`, `median` or `worst`, position) of questions, best first, none twice."""
    order = [int(index) for index in np.argsort(-score_Q, kind="stable")]
    best, rest = order[:EACH], order[EACH:]
    worst = rest[-EACH:]
    rest = rest[: len(rest) - len(worst)]
    start = max(0, (len(rest) - EACH) // 2)
    median = rest[start : start + EACH]
    return [
        (rank, index)
        for rank, chosen in (("best", best), ("median", median), ("worst", worst))
        for index in chosen
    ]


def _rounded(shares: NDArray[np.floating]) -> list[float]:
    return [round(float(share), 4) for share in shares]
