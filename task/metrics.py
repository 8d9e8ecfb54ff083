"""Scores of predicted distributions, and fairness indices over groups.

Suffixes: Q questions, O options of a question.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from task import records

NUM_BINS = 10
"""Calibration bins, of a tenth of the predicted share each."""

SCORE_RANGE = math.sqrt(math.log(2))
"""An alignment score is at most 1 and at least 1 less this."""

FEWEST_OPTIONS = 20
"""A bin of fewer options, over all context draws, is not disclosed: its sum could be one share."""


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
        worst_decile: mean of the lowest tenth of the groups, one at least.
        gap: highest minus lowest.
        cov: coefficient of variation, population std / mean.
        fairness_index: FI = 1 / (1 + CoV^2) (Jain's index; arXiv 2503.09925, eq. 8).
    """

    mean: float
    worst: float
    worst_group: str
    worst_decile: float
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
            worst_decile=float(np.sort(values)[: math.ceil(len(values) / 10)].mean()),
            gap=float(values.max() - values.min()),
            cov=cov,
            fairness_index=1 / (1 + cov**2),
        )


@dataclass(frozen=True)
class Calibration:
    """Predicted against true shares in bins of the predicted share, as sums, so that they merge.

    Attributes:
        options: options whose predicted share lies in each of `NUM_BINS` bins of equal width.
        predicted: sum of their predicted shares.
        true: sum of their true shares.
    """

    options: tuple[float, ...] = (0.0,) * NUM_BINS
    predicted: tuple[float, ...] = (0.0,) * NUM_BINS
    true: tuple[float, ...] = (0.0,) * NUM_BINS

    @classmethod
    def of(cls, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> "Calibration":
        """Sort (options,) predicted and true shares into bins."""
        # What is not finite goes into some bin, whose sum is then seen not to be finite either.
        finite = np.nan_to_num(predicted)
        bins = np.clip(finite * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
        sums = (
            np.bincount(bins, weights, minlength=NUM_BINS).tolist()
            for weights in (np.ones(len(bins)), predicted, true)
        )
        return cls(*map(tuple, sums))

    def __add__(self, other: "Calibration") -> "Calibration":
        return Calibration(
            _added(self.options, other.options),
            _added(self.predicted, other.predicted),
            _added(self.true, other.true),
        )

    @property
    def disclosed(self) -> "Calibration":
        """The bins of at least `FEWEST_OPTIONS` options, all others empty."""
        return Calibration(
            *(
                tuple(
                    value if number >= FEWEST_OPTIONS else 0.0
                    for value, number in zip(values, self.options, strict=True)
                )
                for values in (self.options, self.predicted, self.true)
            )
        )

    @property
    def error(self) -> float:
        """Expected calibration error (arXiv 1706.04599, eq. 3, with shares for frequencies).

        The mean over options of how far a bin's mean true share lies from its mean predicted one;
        NaN when there is no option.
        """
        gaps = (abs(p - t) for p, t in zip(self.predicted, self.true, strict=True))
        options = sum(self.options)
        return sum(gaps) / options if options else float("nan")


def _added(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group's target questions.

    A question is *seen* when some (other) training group was asked it too, *new* otherwise.

    Attributes:
        all: alignment score of all questions.
        seen: of the seen ones.
        new: of the new ones.
        top_option: share of questions whose most chosen option is predicted to be that.
        calibration: predicted against true shares of all options.
    """

    all: Mean = Mean()
    seen: Mean = Mean()
    new: Mean = Mean()
    top_option: Mean = Mean()
    calibration: Calibration = Calibration()

    @classmethod
    def of(
        cls,
        predicted_QO: NDArray[np.floating],
        true_QO: NDArray[np.floating],
        lengths_Q: NDArray[np.int64],
        seen_Q: NDArray[np.bool_],
    ) -> "GroupScores":
        """Score predicted distributions.

        Args:
            predicted_QO: predicted shares, 0 where a question has no such option.
            true_QO: the group's answer distributions, padded alike.
            lengths_Q: numbers of options.
            seen_Q: which questions are seen.
        """
        predicted, true = predicted_QO.astype(np.float64), true_QO.astype(np.float64)
        scores_Q = alignment_score(torch.from_numpy(predicted), torch.from_numpy(true)).numpy()
        exists_QO = np.arange(predicted.shape[1]) < lengths_Q[:, None]
        # Several options may be chosen equally often: any of them is right.
        top_Q = np.take_along_axis(true, predicted.argmax(1)[:, None], 1)[:, 0] >= true.max(1)
        return cls(
            Mean.of(scores_Q),
            Mean.of(scores_Q[seen_Q]),
            Mean.of(scores_Q[~seen_Q]),
            Mean.of(top_Q.astype(np.float64)),
            Calibration.of(predicted[exists_QO], true[exists_QO]),
        )

    def __add__(self, other: "GroupScores") -> "GroupScores":
        return GroupScores(
            self.all + other.all,
            self.seen + other.seen,
            self.new + other.new,
            self.top_option + other.top_option,
            self.calibration + other.calibration,
        )

    def to_metrics(self, *, disclosed: bool = True) -> dict[str, list[float]]:
        """Return the sums by their names on the wire (`task.records`).

        Args:
            disclosed: leave small bins out, as what leaves a client must; False: keep all.
        """
        means = {key: getattr(self, name) for key, name in _MEANS.items()}
        bins = self.calibration.disclosed if disclosed else self.calibration
        return {
            **{key: [mean.total, mean.weight] for key, mean in means.items()},
            records.CALIBRATION: [*bins.options, *bins.predicted, *bins.true],
        }

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Sequence[float]]) -> "GroupScores":
        """Return the scores of which `to_metrics` gave these sums."""
        means = {name: Mean(*metrics[key]) for key, name in _MEANS.items()}
        sums = iter(metrics[records.CALIBRATION])
        bins = [tuple(islice(sums, NUM_BINS)) for _ in range(3)]
        return cls(**means, calibration=Calibration(*bins))


_MEANS = {
    records.SCORES_ALL: "all",
    records.SCORES_SEEN: "seen",
    records.SCORES_NEW: "new",
    records.TOP_OPTION: "top_option",
}


def macro_mean(means: Iterable[Mean]) -> float:
    """Return the mean over groups that have such questions; NaN when none has."""
    values = [mean.value for mean in means if mean.weight]
    return float(np.mean(values)) if values else float("nan")
