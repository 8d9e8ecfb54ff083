"""Scoring a group: its context in, the distributions of all its other questions out."""

import numpy as np
import torch
from numpy.typing import NDArray

from task.config import EvaluationConfig
from task.episodes import Split, make_episode
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
        episode = make_episode([(data, split)]).to(device)
        values = alignment_score(predictor.distributions(episode)[0], episode.target_y_BQO[0])
        seen = np.isin(data.question_keys[split.target], seen_keys)
        scores += GroupScores.of(values.cpu().numpy(), seen)
    return scores
