"""How comparisons came out, beside what was predicted of them."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from task.episodes import Split
from task.evaluation import Predict
from task.features import GroupData, option_rows
from task.survey import Answers, Survey

NUM_BINS = 10


class Outcomes(NamedTuple):
    """Comparisons of a group's targets.

    Attributes:
        predicted: (N,) that the first response is preferred.
        wins: (N,) how often it was.
        number: (N,) how often the two were compared.
        new: (N,) whether no training group was asked that question.
    """

    predicted: NDArray[np.float64]
    wins: NDArray[np.float64]
    number: NDArray[np.float64]
    new: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        data: GroupData,
        targets: NDArray[np.int64],
        predicted: NDArray[np.floating],
        new: NDArray[np.bool_] | None = None,
    ) -> "Outcomes":
        """Return the outcomes of some of a group's pairs; none is new unless that is said."""
        number = numbers(data)[targets]
        new = np.zeros(len(targets), dtype=np.bool_) if new is None else new
        first = data.answers.shares[data.answers.starts[targets]].astype(np.float64)
        return cls(predicted.astype(np.float64), first * number, number, new)

    def scores(self) -> dict[str, float]:
        """Return accuracy, Brier score, log loss and expected calibration error, per comparison."""
        total = self.number.sum()
        likely = np.clip(self.predicted, 1e-7, 1 - 1e-7)
        losses = self.number - self.wins
        right = np.where(self.predicted > 0.5, self.wins, losses)
        right = np.where(self.predicted == 0.5, self.number / 2, right)
        brier = self.wins * (1 - likely) ** 2 + losses * likely**2
        log_loss = -(self.wins * np.log(likely) + losses * np.log1p(-likely))
        table = self.reliability()
        filled = table[0] > 0
        gaps = np.abs(table[1, filled] - table[2, filled])
        return {
            "accuracy": float(right.sum() / total),
            "brier": float(brier.sum() / total),
            "log_loss": float(log_loss.sum() / total),
            "ece": float(gaps.sum() / total),
        }

    def reliability(self) -> NDArray[np.float64]:
        """Return (3, bins): comparisons, summed confidence, and how often it was right.

        By confidence in the preferred response, from 0.5 to 1.
        """
        prefers_first = self.predicted >= 0.5
        confidence = np.where(prefers_first, self.predicted, 1 - self.predicted)
        right = np.where(prefers_first, self.wins, self.number - self.wins)
        place = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
        columns = (self.number, self.number * confidence, right)
        return np.stack([np.bincount(place, each, NUM_BINS) for each in columns])


def numbers(data: GroupData) -> NDArray[np.float64]:
    """Return (Q,) how often each pair of a group was compared."""
    assert data.answers.respondents is not None
    return data.answers.respondents.astype(np.float64)


def true_chances(survey: Survey) -> dict[tuple[str, str, str, str], float]:
    """Return (group, prompt, one response, the other) to the chance that the group prefers one."""
    chances = {}
    for group, answers in survey.answers.items():
        for index, position in enumerate(answers.questions.tolist()):
            question, shares = survey.questions[position], answers.distribution(index)
            for i, one in enumerate(question.options):
                for j, other in enumerate(question.options):
                    if i != j and shares[i] + shares[j] > 0:
                        key = (group, question.text, one, other)
                        chances[key] = float(shares[i] / (shares[i] + shares[j]))
    return chances


def with_context_of(
    other: GroupData, predict: Predict, data: GroupData, split: Split
) -> NDArray[np.floating]:
    """Predict a group's targets from another group's context of the same size."""
    context = other.trainable[: len(split.context)]
    parts = [(other, context), (data, split.target)]
    rows = [option_rows(d.answers.starts, d.answers.lengths, which) for d, which in parts]
    positions = np.arange(len(context) + len(split.target))
    mixed = replace(
        data,
        rows=np.concatenate([d.rows[r] for (d, _), r in zip(parts, rows, strict=True)]),
        answers=Answers(
            positions,
            np.concatenate([d.answers.lengths[which] for d, which in parts]),
            np.concatenate([d.answers.shares[r] for (d, _), r in zip(parts, rows, strict=True)]),
        ),
        question_keys=np.concatenate([d.question_keys[which] for d, which in parts]),
    )
    return predict(mixed, Split(positions[: len(context)], positions[len(context) :]))
