"""Episodes: context and target questions of a group, as padded tensors.

Suffixes: B episodes, C context options, T target options, Q target questions, O options of a
question, d feature dimensions. A mask is True where there is data; masks come from lengths, never
from values.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from task.config import TrainConfig
from task.errors import ConfigError
from task.features import GroupData, option_rows
from task.privacy_config import PrivacyConfig
from task.seeding import generator


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

    def by_question(self, values_BT: torch.Tensor) -> torch.Tensor:
        """Return (B, Q, O): one value per target option, arranged by question."""
        index_BP = self.option_index_BQO.flatten(1)
        return values_BT.gather(1, index_BP).view(self.option_index_BQO.shape)

    def log_softmax(self, values_BT: torch.Tensor) -> torch.Tensor:
        """Return (B, Q, O) log probabilities of each question's options, -inf where none is."""
        values_BQO = self.by_question(values_BT)
        # Questions that are padding as a whole have no option: their softmax is over equal values.
        missing_BQO = ~self.option_mask_BQO
        logits_BQO = values_BQO.masked_fill(missing_BQO, torch.finfo(values_BQO.dtype).min)
        return logits_BQO.log_softmax(-1).masked_fill(missing_BQO, -torch.inf)


class PredictsDistributions(Protocol):
    """What training and evaluation need of a predictor, or of a probe in its place."""

    @property
    def feature_mean(self) -> torch.Tensor:
        """Mean of the features that it was made for; it lies where the predictor computes."""

    def log_distributions(self, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, Q, O) log probabilities (-inf where no option) and log deviations."""

    def distributions(self, episode: Episode) -> torch.Tensor:
        """Return (B, Q, O) predicted answer distributions, 0 where a question has no option."""

    def eval(self) -> object:
        """Prepare for predicting."""


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


def disjoint_episodes(
    data: GroupData, config: PrivacyConfig, seed: int, server_round: int
) -> list[Split]:
    """Deal a group's trainable questions out to episodes that share none (unit question).

    Every episode has `questions_per_episode` questions, the first half of them context (of an odd
    number the smaller part). What fills no episode is left out of this round: each round deals
    anew. The deal depends on how many questions there are, never on their answers.

    Args:
        data: a training group; its held-back questions are not touched.
        config: episode sizes.
        seed: the run's seed.
        server_round: the federated round.

    Raises:
        ConfigError: the group has too few trainable questions for a single episode.
    """
    size, available = config.questions_per_episode, len(data.trainable)
    if available < size:
        raise ConfigError(
            f"privacy.questions-per-episode = {size}: group {data.group!r} has {available} "
            "trainable questions. Lower it, or leave the group out (data.min-questions)."
        )
    random = generator(seed, "disjoint episodes", server_round, data.group)
    dealt = random.permutation(data.trainable)[: available // size * size].reshape(-1, size)
    return [Split(episode[: size // 2], episode[size // 2 :]) for episode in dealt]


def make_episode(
    parts: Sequence[tuple[GroupData, Split]],
    *,
    features: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    multiple: int = 0,
) -> Episode:
    """Turn splits into padded tensors, one episode each.

    Args:
        parts: groups of one survey (they share one array of features) and their questions.
        features: the survey's features on `device`; None: the groups' own, moved there.
        device: where the tensors are to lie.
        multiple: numbers of context and target options are padded to a multiple of this; 0: 1, and
            32 on a GPU, whose memory and kernels are then reused among fewer shapes.
    """
    multiple = multiple or (32 if torch.device(device).type == "cuda" else 1)
    shared = parts[0][0].features
    if any(data.features is not shared for data, _ in parts):
        raise ValueError("Episodes of one batch must come from groups that share their features.")
    context = _Options.of([(data, split.context) for data, split in parts], multiple)
    target = _Options.of([(data, split.target) for data, split in parts], multiple)
    lengths = [data.answers.lengths[split.target] for data, split in parts]
    questions = max(len(length) for length in lengths)
    options = max(int(length.max()) for length in lengths)
    mask = np.zeros((len(parts), questions, options), dtype=bool)
    for row, length in zip(mask, lengths, strict=True):
        row[: len(length)] = np.arange(options) < length[:, None]
    # A mask's True entries come question after question, as a row's options do.
    order = np.flatnonzero(mask)
    within = np.concatenate([np.arange(number) for number in target.numbers])
    index = np.zeros(mask.size, dtype=np.int64)
    index[order] = within
    answers = np.zeros(mask.size, dtype=np.float32)
    answers[order] = target.shares[target.exists]
    source = _readable(shared) if features is None else features
    return Episode(
        context_x_BCd=_looked_up(source, context.rows, device),
        context_y_BC=_moved(context.shares, device),
        context_mask_BC=None if context.exists.all() else _moved(context.exists, device),
        target_x_BTd=_looked_up(source, target.rows, device),
        option_index_BQO=_moved(index.reshape(mask.shape), device),
        option_mask_BQO=_moved(mask, device),
        target_y_BQO=_moved(answers.reshape(mask.shape), device),
    )


def drop_features(
    episode: Episode, mean_d: torch.Tensor, kept_Bd: NDArray[np.bool_], probability: float
) -> Episode:
    """Drop features from all options of an episode: dropout (JMLR 15:1929) around their mean.

    Args:
        episode: a batch of episodes.
        mean_d: mean of the features: what a dropped one is replaced with.
        kept_Bd: which features each episode keeps.
        probability: of dropping a feature; the others' distances from the mean grow by
            1 / (1 - probability), so that they are the same on average.
    """
    scale_Bd = kept_Bd.astype(np.float32) / np.float32(1 - probability)
    scale_B1d = _moved(scale_Bd, mean_d.device).unsqueeze(1)
    return replace(
        episode,
        context_x_BCd=mean_d + (episode.context_x_BCd - mean_d) * scale_B1d,
        target_x_BTd=mean_d + (episode.target_x_BTd - mean_d) * scale_B1d,
    )


@dataclass(frozen=True)
class _Options:
    """Options of each episode's questions: feature rows, shares, and which entries exist."""

    rows: NDArray[np.int64]
    shares: NDArray[np.float32]
    exists: NDArray[np.bool_]
    numbers: list[int]

    @classmethod
    def of(cls, chosen: Sequence[tuple[GroupData, NDArray[np.int64]]], multiple: int) -> "_Options":
        positions = [
            option_rows(data.answers.starts, data.answers.lengths, questions)
            for data, questions in chosen
        ]
        numbers = [len(each) for each in positions]
        shape = (len(chosen), -(-max(numbers) // multiple) * multiple)
        rows, shares = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        for b, ((data, _), each) in enumerate(zip(chosen, positions, strict=True)):
            rows[b, : len(each)] = data.rows[each]
            shares[b, : len(each)] = data.answers.shares[each]
        exists = np.arange(shape[1]) < np.array(numbers)[:, None]
        return cls(rows, shares, exists, numbers)


def _readable(features: NDArray[np.float32]) -> torch.Tensor:
    """Wrap features; they are read-only, of which torch warns though nothing writes to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(features)


def _looked_up(
    features: torch.Tensor, rows: NDArray[np.int64], device: torch.device | str
) -> torch.Tensor:
    index = _moved(rows, features.device).flatten()
    return features.index_select(0, index).view(*rows.shape, features.shape[1]).to(device)


def _moved(array: NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """Return an array on a device; CUDA copies it while the host goes on."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
