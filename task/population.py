"""The population's answers: sums over training groups, mixed into what the predictor predicts.

Suffixes: Q questions of a group, O options of a question, n questions of the population, m their
options.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from task.features import GroupData

_WHOLE = ("keys", "counts", "starts")  # arrays of integers


@dataclass(frozen=True)
class PopulationAnswers:
    """Sums of training groups' answer distributions, question by question.

    Attributes:
        keys: (n,) int64, `Question.key`, ascending.
        counts: (n,) int64, how many distributions are added up.
        starts: (n + 1,) int64, where each question's sums lie.
        totals: (m,) float64, sums of shares; a question's options in sorted order.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]
    totals: NDArray[np.float64]

    @classmethod
    def of(cls, data: GroupData) -> "PopulationAnswers":
        """Return the answers of one group alone: what it discloses so that sums can be made."""
        answers = data.answers
        distributions = []
        for index, key in enumerate(data.question_keys.tolist()):
            shares = np.empty(answers.lengths[index])
            shares[_ranks(data, index)] = answers.distribution(index)
            distributions.append((key, 1, shares))
        return cls._of(distributions)

    @classmethod
    def merged(cls, parts: Iterable["PopulationAnswers"]) -> "PopulationAnswers":
        """Add up the answers of several groups, in their order."""
        return cls._of(
            (key, count, part.totals[start:end])
            for part in parts
            for key, count, start, end in zip(
                part.keys.tolist(),
                part.counts.tolist(),
                part.starts[:-1].tolist(),
                part.starts[1:].tolist(),
                strict=True,
            )
        )

    @classmethod
    def _of(
        cls, distributions: Iterable[tuple[int, int, NDArray[np.float64]]]
    ) -> "PopulationAnswers":
        totals: dict[int, NDArray[np.float64]] = {}
        counts: dict[int, int] = {}
        for key, count, shares in distributions:
            totals[key] = totals[key] + shares if key in totals else shares
            counts[key] = counts.get(key, 0) + count
        keys = sorted(totals)
        lengths = [0, *(len(totals[key]) for key in keys)]
        return cls(
            np.array(keys, dtype=np.int64),
            np.array([counts[key] for key in keys], dtype=np.int64),
            np.cumsum(lengths).astype(np.int64),
            np.concatenate([np.zeros(0), *(totals[key] for key in keys)]),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, as they cross the wire and are saved."""
        return {name: getattr(self, name) for name in (*_WHOLE, "totals")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "PopulationAnswers":
        """Return what `to_arrays` gave."""
        keys, counts, starts = (arrays[name].astype(np.int64) for name in _WHOLE)
        return cls(keys, counts, starts, arrays["totals"].astype(np.float64))

    def sums(self, key: int) -> tuple[int, NDArray[np.float64]] | None:
        """Return count and (options,) sums of a question; None: no group has answered it."""
        index = int(np.searchsorted(self.keys, key))
        if index == len(self.keys) or self.keys[index] != key:
            return None
        return int(self.counts[index]), self.totals[self.starts[index] : self.starts[index + 1]]


@dataclass(frozen=True)
class PopulationPrior:
    """Mixes the population's answers to a question into the predicted distribution.

    The network's distribution p counts as one answer, each training group's answer y_k as `weight`
    of one: (p + weight * sum of y_k) / (1 + weight * their number), a Dirichlet prior's posterior
    mean. A question that no training group was asked is left to the network.

    Attributes:
        answers: sums over the training groups.
        weight: what an answer of a training group counts beside the network's.
    """

    answers: PopulationAnswers
    weight: float

    def mix(
        self,
        predicted_QO: NDArray[np.floating],
        data: GroupData,
        questions: NDArray[np.int64],
    ) -> NDArray[np.floating]:
        """Return (Q, O) mixed distributions of some of a group's questions.

        A training group's own answers are in the sums, and are taken out of them first.

        Args:
            predicted_QO: the network's distributions, 0 where a question has no option.
            data: the group's data.
            questions: positions of the questions.
        """
        mixed_QO = predicted_QO.astype(np.float64)
        own = PopulationAnswers.of(data) if data.role == "train" else None
        for row, index in enumerate(questions.tolist()):
            key = int(data.question_keys[index])
            known = self.answers.sums(key)
            if known is None:
                continue
            count, total = known
            if own is not None and (own_sums := own.sums(key)):
                count, total = count - own_sums[0], total - own_sums[1]
            if count > 0:
                shares = mixed_QO[row, : len(total)]
                others = total[_ranks(data, index)]
                mixed_QO[row, : len(total)] = (shares + self.weight * others) / (
                    1 + self.weight * count
                )
        return mixed_QO


class StoredPopulation(nn.Module):
    """The population's answers inside a predictor, saved with it.

    Args:
        weight: see `PopulationPrior`.
        size: numbers of questions and of their options; (0, 0): nothing is stored.
    """

    def __init__(self, weight: float, size: Sequence[int]) -> None:
        super().__init__()
        self.weight = weight
        questions, options = size
        if not questions:
            return  # a predictor without them has the keys it had before there were any
        for name, length in zip(_WHOLE, (questions, questions, questions + 1), strict=True):
            self.register_buffer(name, torch.zeros(length, dtype=torch.int64))
        self.register_buffer("totals", torch.zeros(options, dtype=torch.float64))

    def store(self, answers: PopulationAnswers) -> None:
        """Keep answers, as many as the sizes say."""
        for name, array in answers.to_arrays().items():
            self.get_buffer(name).copy_(torch.from_numpy(array))

    @property
    def prior(self) -> PopulationPrior | None:
        """What to mix into predictions; None: nothing is stored."""
        arrays = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
        if not arrays:
            return None
        return PopulationPrior(PopulationAnswers.from_arrays(arrays), self.weight)


def _ranks(data: GroupData, index: int) -> NDArray[np.int64]:
    """Return the place of each option of a question among its sorted options."""
    start = data.answers.starts[index]
    return data.option_ranks[start : start + data.answers.lengths[index]]
