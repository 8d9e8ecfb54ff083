"""Scoring a group: its context in, the distributions of all its other questions out.

Suffixes: B episodes, Q target questions, O options of a question.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from task.config import EvaluationConfig
from task.episodes import Episode, PredictsDistributions, Split, make_episode
from task.features import GroupData
from task.metrics import GroupScores
from task.population import PopulationPrior
from task.seeding import generator

Predict = Callable[[GroupData, Split], NDArray[np.floating]]
"""(group, split) to (Q, O) distributions of the split's targets, 0 where there is no option."""

FEWEST_TARGETS = 10
"""A group is part of a few-shot curve when at least this many questions stay targets throughout."""


def evaluation_splits(data: GroupData, config: EvaluationConfig, seed: int) -> list[Split]:
    """Return the seeded context draws of a group, the same in every round and for every method.

    Context comes from the questions that may train. Targets are all other questions of a held-out
    group, and the held-back questions of a training group.
    """
    return [
        _split(data, order, config.num_context, config.num_context)
        for order in _orders(data, config, seed)
    ]


def few_shot_splits(
    data: GroupData, sizes: Sequence[int], config: EvaluationConfig, seed: int
) -> dict[int, list[Split]]:
    """Return the context draws of a group for several context sizes, a larger one adding to it.

    Targets are the same for all sizes: what the largest leaves over (a training group: what is held
    back). Empty when the group has too few questions for that.
    """
    largest = max(sizes)
    needed = largest + (FEWEST_TARGETS if data.role == "held-out" else 0)
    if len(data.trainable) < needed:
        return {}
    orders = _orders(data, config, seed)
    return {size: [_split(data, order, size, largest) for order in orders] for size in sizes}


def score_episode(
    predictor: PredictsDistributions,
    episode: Episode,
    parts: Sequence[tuple[GroupData, Split]],
    seen_keys: Sequence[NDArray[np.int64]],
    prior: PopulationPrior | None = None,
) -> list[GroupScores]:
    """Score the targets of each of an episode's groups.

    Args:
        predictor: the predictor to score.
        episode: what `make_episode` makes of `parts`.
        parts: groups and their questions.
        seen_keys: for each part, `Question.key` of the questions that count as seen.
        prior: the population's answers to mix in, if any.
    """
    predicted_BQO = predictor.distributions(episode).float().cpu().numpy()
    return [
        _score(_mixed(predicted_QO[: len(split.target)], data, split, prior), data, split, keys)
        for predicted_QO, (data, split), keys in zip(predicted_BQO, parts, seen_keys, strict=True)
    ]


def score_splits(
    predict: Predict, data: GroupData, splits: Iterable[Split], seen_keys: NDArray[np.int64]
) -> GroupScores:
    """Score the targets of a group, over all splits together.

    Args:
        predict: what is scored.
        data: the group's data.
        splits: contexts and targets.
        seen_keys: `Question.key` of the questions that count as seen.
    """
    return sum(
        (_score(predict(data, split), data, split, seen_keys) for split in splits), GroupScores()
    )


def predict_with(predictor: PredictsDistributions, prior: PopulationPrior | None = None) -> Predict:
    """Return the function that lets a predictor predict, one forward pass per split.

    Args:
        predictor: what predicts.
        prior: the population's answers to mix in, if any.
    """

    @torch.inference_mode()
    def predict(data: GroupData, split: Split) -> NDArray[np.floating]:
        predictor.eval()
        episode = make_episode([(data, split)], device=predictor.feature_mean.device)
        predicted_QO = predictor.distributions(episode)[0].cpu().numpy()
        return _mixed(predicted_QO, data, split, prior)

    return predict


def evaluate_group(
    predictor: PredictsDistributions,
    data: GroupData,
    config: EvaluationConfig,
    seed: int,
    seen_keys: NDArray[np.int64],
    prior: PopulationPrior | None = None,
) -> GroupScores:
    """Score all targets of a group, one forward pass per context draw.

    Args:
        predictor: the predictor to score.
        data: the group's data.
        config: context size and number of draws.
        seed: the run's seed.
        seen_keys: `Question.key` of the questions that count as seen.
        prior: the population's answers to mix in, if any.
    """
    splits = evaluation_splits(data, config, seed)
    return score_splits(predict_with(predictor, prior), data, splits, seen_keys)


def true_distributions(data: GroupData, questions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the (Q, O) answer distributions of some of a group's questions, padded with 0."""
    lengths = data.answers.lengths[questions]
    true_QO = np.zeros((len(questions), int(lengths.max(initial=0))), dtype=np.float32)
    for row, question in enumerate(questions.tolist()):
        true_QO[row, : lengths[row]] = data.answers.distribution(question)
    return true_QO


def _orders(data: GroupData, config: EvaluationConfig, seed: int) -> list[NDArray[np.int64]]:
    """Return a seeded order of the group's trainable questions for each draw."""
    return [
        generator(seed, "evaluation context", draw, data.group).permutation(data.trainable)
        for draw in range(config.num_draws)
    ]


def _split(data: GroupData, order: NDArray[np.int64], num_context: int, unused: int) -> Split:
    """Take the first of an order as context; targets are those after the first `unused`."""
    target = data.held_back if data.role == "train" else np.sort(order[unused:])
    return Split(order[:num_context], target)


def _mixed(
    predicted_QO: NDArray[np.floating],
    data: GroupData,
    split: Split,
    prior: PopulationPrior | None,
) -> NDArray[np.floating]:
    return prior.mix(predicted_QO, data, split.target) if prior else predicted_QO


def _score(
    predicted_QO: NDArray[np.floating],
    data: GroupData,
    split: Split,
    seen_keys: NDArray[np.int64],
) -> GroupScores:
    true_QO = true_distributions(data, split.target)
    seen_Q = np.isin(data.question_keys[split.target], seen_keys)
    lengths_Q = data.answers.lengths[split.target]
    # A batch may hold questions with more options than these.
    predicted_QO = predicted_QO[:, : true_QO.shape[1]]
    return GroupScores.of(predicted_QO, true_QO, lengths_Q, seen_Q)
