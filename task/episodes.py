"""Episodes: context and target questions of a group, as padded tensors.

Suffixes: B episodes, C context options, T target options, Q target questions, O options of a
question, d feature dimensions. A mask is True where there is data; masks come from lengths, never
from values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from task.config import TrainConfig
from task.features import GroupData, option_rows


@dataclass(frozen=True)
class Split:
    """Which of a group's questions are context and which are targets (positions)."""

    context: NDArray[np.int64]
    target: NDArray[np.int64]


@dataclass(frozen=True)
class Episode:
    """A batch of episodes.

    Attributes:
        context_x_BCd: features of the context options.
        context_y_BC: their answer shares.
        context_mask_BC: which context options exist; None when all do.
        target_x_BTd: features of the target options, question after question.
        option_index_BQO: position along T of each option of each target question.
        option_mask_BQO: which of them exist.
        target_y_BQO: answer shares of the targets, 0 where there is no option.
    """

    context_x_BCd: torch.Tensor
    context_y_BC: torch.Tensor
    context_mask_BC: torch.Tensor | None
    target_x_BTd: torch.Tensor
    option_index_BQO: torch.Tensor
    option_mask_BQO: torch.Tensor
    target_y_BQO: torch.Tensor

    def to(self, device: torch.device) -> "Episode":
        """Return the same episodes on another device."""
        mask = self.context_mask_BC
        return Episode(
            context_x_BCd=self.context_x_BCd.to(device),
            context_y_BC=self.context_y_BC.to(device),
            context_mask_BC=None if mask is None else mask.to(device),
            target_x_BTd=self.target_x_BTd.to(device),
            option_index_BQO=self.option_index_BQO.to(device),
            option_mask_BQO=self.option_mask_BQO.to(device),
            target_y_BQO=self.target_y_BQO.to(device),
        )


def sample_split(data: GroupData, config: TrainConfig, random: np.random.Generator) -> Split:
    """Draw a training episode's questions (arXiv 2310.11523, algorithm 1).

    The numbers of context and target questions are uniform in their configured ranges, cut to what
    the group has: first the context, down to one question, then the targets.
    """
    available = len(data.trainable)
    drawn = int(random.integers(config.min_context, config.max_context + 1))
    context = min(drawn, max(1, available - config.min_target))
    target = min(
        int(random.integers(config.min_target, config.max_target + 1)), available - context
    )
    order = random.permutation(data.trainable)
    return Split(order[:context], order[context : context + target])


def make_episode(parts: Sequence[tuple[GroupData, Split]]) -> Episode:
    """Turn splits into padded tensors, one episode each."""
    context = [_gather(data, split.context) for data, split in parts]
    target = [_gather(data, split.target) for data, split in parts]
    lengths = [data.answers.lengths[split.target] for data, split in parts]
    context_lengths = [len(y) for _, y in context]
    questions = max(len(length) for length in lengths)
    options = max(int(length.max()) for length in lengths)
    index = np.zeros((len(parts), questions, options), dtype=np.int64)
    mask = np.zeros((len(parts), questions, options), dtype=bool)
    answers = np.zeros((len(parts), questions, options), dtype=np.float32)
    for b, length in enumerate(lengths):
        exists = np.arange(options) < length[:, None]
        mask[b, : len(length)] = exists
        index[b, : len(length)][exists] = np.arange(length.sum())
        answers[b, : len(length)][exists] = target[b][1]
    ragged = len(set(context_lengths)) > 1
    return Episode(
        context_x_BCd=_pad([x for x, _ in context]),
        context_y_BC=_pad([y for _, y in context]),
        context_mask_BC=_length_mask(context_lengths) if ragged else None,
        target_x_BTd=_pad([x for x, _ in target]),
        option_index_BQO=torch.from_numpy(index),
        option_mask_BQO=torch.from_numpy(mask),
        target_y_BQO=torch.from_numpy(answers),
    )


def _gather(
    data: GroupData, positions: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows = option_rows(data.answers.starts, data.answers.lengths, positions)
    return data.features[data.rows[rows]], data.answers.shares[rows]


def _pad(arrays: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    longest = max(len(array) for array in arrays)
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), dtype=np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def _length_mask(lengths: Sequence[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
