"""Local training: a function of parameters, data, settings and seed; of one client or a stack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from task.config import TrainConfig
from task.episodes import (
    Episode,
    PredictsDistributions,
    Split,
    drop_features,
    make_episode,
    sample_split,
)
from task.features import GroupData
from task.predictor import PreferencePredictor
from task.seeding import generator
from task.stacking import Stack


@dataclass(frozen=True)
class LocalUpdate:
    """What local training gives.

    Attributes:
        parameters: the trained parameters by name.
        loss: mean loss of the local steps.
        num_examples: answered questions that the client trains on, FedAvg's weight n_k.
    """

    parameters: dict[str, Tensor]
    loss: float
    num_examples: int


def episode_losses(predictor: PredictsDistributions, episode: Episode, objective: str) -> Tensor:
    """Return (B,) losses, one per episode.

    `categorical`: cross-entropy of the predicted against the answer distribution, averaged over
    target questions. `gaussian`: negative Gaussian log-likelihood of the shares under the
    soft-maxed means, averaged over target options (arXiv 2310.11523, eq. 4).
    """
    log_p_BQO, log_std_BQO = predictor.log_distributions(episode)
    mask_BQO = episode.option_mask_BQO
    if objective == "categorical":
        # 0 * log 0 is 0: options that do not exist have share 0 and probability 0.
        surprise_BQO = episode.target_y_BQO * log_p_BQO.masked_fill(~mask_BQO, 0.0)
        return -surprise_BQO.sum((1, 2)) / mask_BQO.any(-1).sum(1)
    error_BQO = (episode.target_y_BQO - log_p_BQO.exp()) / log_std_BQO.exp()
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    negative_log_likelihood_BQO = 0.5 * error_BQO.square() + log_std_BQO + constant
    total_B = (negative_log_likelihood_BQO * mask_BQO).sum((1, 2))
    return total_B / mask_BQO.sum((1, 2))


def training_splits(
    data: GroupData, config: TrainConfig, seed: int, server_round: int, num_steps: int
) -> list[list[Split]]:
    """Return the seeded episodes of each of a client's steps in a round."""
    random = generator(seed, "training episodes", server_round, data.group)
    return [
        [sample_split(data, config, random) for _ in range(config.episodes_per_step)]
        for _ in range(num_steps)
    ]


class FeatureDropout:
    """Seeded draws of the features that a client's episodes keep in a round.

    Args:
        data: the client.
        config: `feature_dropout`, and episodes of a step.
        seed: the run's seed.
        server_round: the federated round.
    """

    def __init__(self, data: GroupData, config: TrainConfig, seed: int, server_round: int) -> None:
        self._random = generator(seed, "feature dropout", server_round, data.group)
        self._shape = (config.episodes_per_step, data.features.shape[1])
        self._probability = config.feature_dropout

    def draw(self) -> NDArray[np.bool_]:
        """Return (episodes of a step, d_x): which features the next step's episodes keep."""
        kept: NDArray[np.bool_] = self._random.random(self._shape) >= self._probability
        return kept


@dataclass(frozen=True)
class StackUpdate:
    """What training a stack gives.

    Attributes:
        values_KP: the trained parameters; the stack's own memory, to be read before it trains on.
        losses_K: each client's mean loss over the local steps.
    """

    values_KP: Tensor
    losses_K: Tensor


def train_stack(
    stack: Stack,
    start_P: Tensor,
    clients: Sequence[GroupData],
    config: TrainConfig,
    *,
    learning_rates: Sequence[float],
    seed: int,
    server_round: int,
    proximal_mu: float = 0.0,
    anchor_P: Tensor | None = None,
    features: Tensor | None = None,
    autocast: torch.dtype | None = None,
) -> StackUpdate:
    """Train as many clients as the stack has predictors, each on its own, from one start.

    Nothing waits for the device before the last step.

    Args:
        stack: what computes; its parameters are overwritten.
        start_P: global parameters in the stack's layout.
        clients: the groups' data; held-back questions are not touched.
        config: episode sizes and objective.
        learning_rates: one per local step; as many steps are made.
        seed: the run's seed.
        server_round: the federated round, from 1; every round draws other episodes.
        proximal_mu: weight of the proximal term (arXiv 1812.06127, eq. 2).
        anchor_P: parameters that the proximal term draws to; None: the start.
        features: see `make_episode`.
        autocast: lower precision of matrix products and attention, if any.
    """
    stack.load(start_P)
    stack.module.train()
    anchor_P = start_P if anchor_P is None else anchor_P
    device = stack.values_KP.device
    gradient_KP = stack.values_KP.grad
    assert gradient_KP is not None  # the stack allocates it
    optimizer = torch.optim.AdamW([stack.values_KP], weight_decay=config.weight_decay, fused=True)
    steps = [
        training_splits(data, config, seed, server_round, len(learning_rates)) for data in clients
    ]
    dropouts = [FeatureDropout(data, config, seed, server_round) for data in clients]
    parameters = list(stack.module.parameters())
    losses = []
    for step, learning_rate in enumerate(learning_rates):
        optimizer.param_groups[0]["lr"] = learning_rate
        parts = [
            (data, split)
            for data, splits in zip(clients, steps, strict=True)
            for split in splits[step]
        ]
        episode = make_episode(parts, features=features, device=device)
        if config.feature_dropout:
            kept_Bd = np.concatenate([dropout.draw() for dropout in dropouts])
            mean_d = stack.module.feature_mean
            episode = drop_features(episode, mean_d, kept_Bd, config.feature_dropout)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            losses_B = episode_losses(stack.module, episode, config.objective)
        losses_K = losses_B.view(stack.size, -1).mean(1)
        losses.append(losses_K.detach())
        # Zeros for what an objective does not use, such as the categorical one the deviations.
        computed = torch.autograd.grad(losses_K.sum(), parameters, materialize_grads=True)
        for gradient, value in zip(stack.gradients, computed, strict=True):
            gradient.copy_(value)
        if proximal_mu:  # the gradient of mu / 2 * |parameters - anchor|^2
            gradient_KP.add_(stack.values_KP.detach() - anchor_P, alpha=proximal_mu)
        optimizer.step()
    return StackUpdate(stack.values_KP.detach(), torch.stack(losses).mean(0))


def train_client(
    predictor: PreferencePredictor,
    parameters: Mapping[str, Tensor],
    data: GroupData,
    config: TrainConfig,
    *,
    learning_rates: Sequence[float],
    seed: int,
    server_round: int,
    proximal_mu: float = 0.0,
    anchor: Mapping[str, Tensor] | None = None,
) -> LocalUpdate:
    """Train on one group's questions, starting from the given parameters.

    Args:
        predictor: the module to compute with; its parameters are overwritten.
        parameters: global parameters by name, as the server sent them.
        data: as in `train_stack`, and so are the others.
        config: see `train_stack`.
        learning_rates: see `train_stack`.
        seed: see `train_stack`.
        server_round: see `train_stack`.
        proximal_mu: see `train_stack`.
        anchor: parameters that the proximal term draws to; None: the start.

    Raises:
        ValueError: the parameters are not this predictor's.
    """
    stack = Stack(predictor, size=1)
    start_P, anchor_P = (
        stack.layout.flatten(each).to(stack.values_KP.device)
        for each in (parameters, parameters if anchor is None else anchor)
    )
    update = train_stack(
        stack,
        start_P,
        [data],
        config,
        learning_rates=learning_rates,
        seed=seed,
        server_round=server_round,
        proximal_mu=proximal_mu,
        anchor_P=anchor_P,
    )
    return LocalUpdate(
        parameters=stack.layout.views(update.values_KP[0].cpu().clone()),
        loss=float(update.losses_K[0]),
        num_examples=len(data.trainable),
    )
