"""Scoring a group: its context in, the distributions of all its other questions out."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from task.config import EvaluationConfig
from task.episodes import Episode, Split, make_episode
from task.features import GroupData
from task.metrics import GroupScores, alignment_score
from task.predictor import PreferencePredictor
from task.seeding import generator


def evaluation_splits(data: GroupData, config: EvaluationConfig, seed: int) -> list[Split]:
    """Return the seeded context draws of a group, the same in every round and for every method.

    Context comes from the questions that may train. Targets are all other questions of a held-out
    group, and the held-back questions of a training group.
    """
    splits = []
    for draw in range(config.num_draws):
        random = generator(seed, "evaluation context", draw, data.group)
        order = random.permutation(data.trainable)
        context, rest = order[: config.num_context], order[config.num_context :]
        splits.append(Split(context, data.held_back if data.role == "train" else np.sort(rest)))
    return splits


def score_episode(
    predictor: PreferencePredictor,
    episode: Episode,
    parts: Sequence[tuple[GroupData, Split]],
    seen_keys: Sequence[NDArray[np.int64]],
) -> list[GroupScores]:
    """Score the targets of each of an episode's groups.

    Args:
        predictor: the predictor to score.
        episode: what `make_episode` makes of `parts`.
        parts: groups and their questions.
        seen_keys: for each part, `Question.key` of the questions that count as seen.
    """
    values_BQ = alignment_score(predictor.distributions(episode), episode.target_y_BQO)
    scores = []
    for values_Q, (data, split), keys in zip(
        values_BQ.cpu().numpy(), parts, seen_keys, strict=True
    ):
        seen = np.isin(data.question_keys[split.target], keys)
        scores.append(GroupScores.of(values_Q[: len(split.target)], seen))
    return scores


@torch.inference_mode()
def evaluate_group(
    predictor: PreferencePredictor,
    data: GroupData,
    config: EvaluationConfig,
    seed: int,
    seen_keys: NDArray[np.int64],
) -> GroupScores:
    """Score all targets of a group, one forward pass per context draw.

    Args:
        predictor: the predictor to score.
        data: the group's data.
        config: context size and number of draws.
        seed: the run's seed.
        seen_keys: `Question.key` of the questions that count as seen.
    """
    predictor.eval()
    device = predictor.feature_mean.device
    scores = GroupScores()
    for split in evaluation_splits(data, config, seed):
        episode = make_episode([(data, split)], device=device)
        scores += score_episode(predictor, episode, [(data, split)], [seen_keys])[0]
    return scores
