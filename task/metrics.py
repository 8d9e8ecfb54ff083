"""Scores of predicted distributions, and fairness indices over groups."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean as a (sum, weight) pair, so that means of parts merge exactly."""

    total: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Mean":
        """Return the mean of values, each of weight 1."""
        return cls(float(values.sum()), float(len(values)))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float:
        """The mean; NaN when nothing was averaged."""
        return self.total / self.weight if self.weight else float("nan")


def alignment_score(p: Tensor, q: Tensor) -> Tensor:
    """Return 1 - Jensen-Shannon distance over the last dimension (arXiv 2503.09925, eq. 6).

    Natural logarithm, as in the paper: 1 for equal distributions, 1 - sqrt(ln 2) = 0.167 for
    disjoint ones. Options that a question does not have are zeros in both.
    """
    p, q = p.double(), q.double()
    m = ((p + q) / 2).clamp(min=torch.finfo(torch.double).tiny)
    divergence = torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)
    # Rounding can leave a divergence of equal distributions a hair below zero.
    distance: Tensor = (divergence.sum(-1) / 2).clamp(min=0).sqrt()
    return 1 - distance


@dataclass(frozen=True)
class Fairness:
    """How a score spreads over groups.

    Attributes:
        mean: macro mean over groups.
        worst: lowest score, and `worst_group` who has it.
        gap: highest minus lowest.
        cov: coefficient of variation, population std / mean.
        fairness_index: FI = 1 / (1 + CoV^2) (Jain's index; arXiv 2503.09925, eq. 8).
    """

    mean: float
    worst: float
    worst_group: str
    gap: float
    cov: float
    fairness_index: float

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> "Fairness":
        """Compute the indices of group scores.

        Raises:
            ValueError: there is no group, or a score is not finite.
        """
        values = np.array(list(scores.values()))
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"Expected finite scores of at least one group, got {dict(scores)}.")
        mean = float(values.mean())
        cov = float(values.std() / mean)
        worst = min(scores, key=lambda group: scores[group])
        return cls(
            mean=mean,
            worst=scores[worst],
            worst_group=worst,
            gap=float(values.max() - values.min()),
            cov=cov,
            fairness_index=1 / (1 + cov**2),
        )


@dataclass(frozen=True)
class GroupScores:
    """Alignment scores of one group, all questions and split by seen and new questions.

    A question is *seen* when some (other) training group was asked it too, *new* otherwise.
    """

    all: Mean = Mean()
    seen: Mean = Mean()
    new: Mean = Mean()

    @classmethod
    def of(cls, scores: NDArray[np.float64], seen: NDArray[np.bool_]) -> "GroupScores":
        """Split per-question scores by whether the question is seen."""
        return cls(Mean.of(scores), Mean.of(scores[seen]), Mean.of(scores[~seen]))

    def __add__(self, other: "GroupScores") -> "GroupScores":
        return GroupScores(self.all + other.all, self.seen + other.seen, self.new + other.new)


def macro_mean(means: Iterable[Mean]) -> float:
    """Return the mean over groups that have such questions; NaN when none has."""
    values = [mean.value for mean in means if mean.weight]
    return float(np.mean(values)) if values else float("nan")
