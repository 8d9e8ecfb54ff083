"""Centralized training: one predictor on pooled groups, and so also on a single group alone.

It draws the very episodes that federated clients draw from the same seed, so that a comparison
differs in nothing but where the optimizer steps are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from task.config import TrainConfig
from task.episodes import drop_features, make_episode
from task.features import GroupData
from task.training import FeatureDropout, episode_losses, training_splits


@dataclass(frozen=True)
class Progress:
    """Where training stands after a round (an epoch).

    Attributes:
        round: from 1.
        optimizer_steps: made so far, one after another.
        episodes: trained on so far, all groups together.
    """

    round: int
    optimizer_steps: int
    episodes: int


def train_centralized(
    module: nn.Module,
    clients: Sequence[GroupData],
    config: TrainConfig,
    *,
    seed: int,
    after_round: Callable[[Progress], None],
) -> None:
    """Train a module in place on the pooled questions of some groups.

    A step's loss is the mean over groups weighted by their number of trainable questions, which is
    the objective that FedAvg minimises (arXiv 1602.05629, eq. 1): with one local step of plain SGD
    the two would be the same algorithm. Adam's moments are kept from step to step.

    Args:
        module: a `PredictsDistributions`.
        clients: the groups; they may differ in size. Held-back questions are not touched.
        config: rounds, steps a round (`local_steps`), episode sizes, objective, learning rates.
        seed: the run's seed.
        after_round: called after each round.
    """
    weights = [len(data.trainable) for data in clients]
    shares = [weight / sum(weights) for weight in weights]
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(
        module.parameters(), weight_decay=config.weight_decay, fused=device.type in ("cpu", "cuda")
    )
    for server_round in range(1, config.num_rounds + 1):
        module.train()
        splits = [
            training_splits(data, config, seed, server_round, config.local_steps)
            for data in clients
        ]
        dropouts = [FeatureDropout(data, config, seed, server_round) for data in clients]
        for step, learning_rate in enumerate(config.learning_rates(server_round)):
            optimizer.param_groups[0]["lr"] = learning_rate
            optimizer.zero_grad()
            for data, share, steps, dropout in zip(clients, shares, splits, dropouts, strict=True):
                # One group after another: sizes differ, and padding would cost more than it saves.
                episode = make_episode([(data, split) for split in steps[step]], device=device)
                if config.feature_dropout:
                    mean_d = module.get_buffer("feature_mean")
                    kept_Bd = dropout.draw()
                    episode = drop_features(episode, mean_d, kept_Bd, config.feature_dropout)
                loss = episode_losses(module, episode, config.objective).mean()  # type: ignore[arg-type]
                (share * loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        steps_made = server_round * config.local_steps
        episodes = steps_made * config.episodes_per_step * len(clients)
        after_round(Progress(server_round, steps_made, episodes))
