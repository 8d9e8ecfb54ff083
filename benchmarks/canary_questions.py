"""A group whose episodes train or not by a coin, and who is told by its update: for `attack.py`.

Unit question protects the episode that holds a question, so that canaries are whole episodes.
Suffixes: m canaries, P parameters.
"""

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from canaries import random_answers, write_table
from numpy.typing import NDArray
from torch import Tensor

from task import private_training
from task.config import RunConfig
from task.encoder import saved_settings
from task.episodes import Split, disjoint_episodes
from task.features import GroupData, feature_sums, load_group
from task.predictor import PreferencePredictor
from task.question_ledger import QuestionLedger
from task.seeding import generator

GROUP = "canaries"
LEARNING_RATE = 0.05
"""Small enough that episodes' gradients are much the same in all of a round's steps."""


def train_and_score(
    config: RunConfig, num_canaries: int, folder: Path
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Train for one round with each episode by a coin; return (m,) scores and the coins.

    The attacker knows all episodes and the group's update, which the server sees.
    """
    seed, privacy = config.run.seed, config.privacy
    asked = round(num_canaries * privacy.questions_per_episode / 0.89)  # a tenth is held back
    write_table(folder / "survey.parquet", random_answers(GROUP, asked, seed))
    flat = config.to_flat() | {"data.source": "table", "data.path": str(folder / "survey.parquet")}
    config = RunConfig.from_flat(flat | {"data.train-groups": GROUP})
    data = load_group(config, GROUP)
    predictor = PreferencePredictor.initial(
        config.predictor, feature_sums(data), saved_settings(config.encoder), seed
    )
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    splits = disjoint_episodes(data, privacy, seed, 1)[:num_canaries]
    coins_m = generator(seed, "coins").random(num_canaries) < 0.5
    kept = [split for split, coin in zip(splits, coins_m, strict=True) if coin]
    steps = config.train.local_steps
    with mock.patch.object(private_training, "disjoint_episodes", lambda *_: kept):
        update = private_training.train_privately(
            predictor,
            parameters,
            data,
            config,
            learning_rates=[LEARNING_RATE] * steps,
            server_round=1,
            ledger=QuestionLedger(folder / "ledger", privacy),
        )
    gradients_mP, names = clipped_gradients(predictor, data, splits, config)
    moved = [(parameters[name] - update.parameters[name]).flatten() for name in names]
    # What the optimizer divided by is public: the number of episodes that it expects to draw.
    sum_P = torch.cat(moved).double() * privacy.sample_rate * len(kept) / LEARNING_RATE
    return coin_estimates(sum_P, gradients_mP, config), coins_m


def clipped_gradients(
    predictor: PreferencePredictor, data: GroupData, splits: Sequence[Split], config: RunConfig
) -> tuple[Tensor, list[str]]:
    """Return each episode's (m, P) gradient at the start, clipped, and the parameters' names."""
    predictor.log_std.requires_grad_(False)
    gradients = private_training.EpisodeGradients(predictor, data, splits, config, 1)
    gradients.compute(np.arange(len(splits)))
    trained = {name: p for name, p in predictor.named_parameters() if p.requires_grad}
    samples = [p.grad_sample.flatten(1) for p in trained.values()]  # type: ignore[attr-defined]
    gradients_mP = torch.cat(samples, dim=1).double()
    norms_m = gradients_mP.norm(dim=1, keepdim=True)
    factors_m = (config.privacy.gradient_clipping_norm / norms_m).clamp(max=1.0)
    return gradients_mP * factors_m, list(trained)


def coin_estimates(sum_P: Tensor, gradients_mP: Tensor, config: RunConfig) -> NDArray[np.float64]:
    """Return (m,) estimates, by ridge regression, of how often each episode was drawn."""
    privacy, steps = config.privacy, config.train.local_steps
    rate = privacy.sample_rate
    noise = steps * (privacy.noise_multiplier * privacy.gradient_clipping_norm) ** 2
    variance = (steps * rate) ** 2 / 4 + steps * rate * (1 - rate) / 2  # of coin times draws
    gram_mm = gradients_mP @ gradients_mP.T
    ridge = noise / variance + 1e-9 * float(gram_mm.diagonal().mean())
    expected_m = torch.full((len(gram_mm),), steps * rate / 2, dtype=torch.float64)
    rest_m = gradients_mP @ sum_P - gram_mm @ expected_m
    eye_mm = torch.eye(len(gram_mm), dtype=torch.float64)
    scores: NDArray[np.float64] = torch.linalg.solve(gram_mm + ridge * eye_mm, rest_m).numpy()
    return scores
