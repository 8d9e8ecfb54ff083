"""Local training of one client: a function of parameters, data, settings and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from task.config import TrainConfig
from task.episodes import Episode, Split, make_episode, sample_split
from task.features import GroupData
from task.predictor import PreferencePredictor
from task.seeding import generator


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


def episode_losses(predictor: PreferencePredictor, episode: Episode, objective: str) -> Tensor:
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
) -> LocalUpdate:
    """Train on one group's questions, starting from the given parameters.

    Args:
        predictor: the module to compute with; its parameters are overwritten.
        parameters: global parameters by name, as the server sent them.
        data: the group's data; its held-back questions are not touched.
        config: episode sizes and objective.
        learning_rates: one per local step; as many steps are made.
        seed: the run's seed.
        server_round: the federated round, from 1; every round draws other episodes.
        proximal_mu: weight of FedProx's proximal term (arXiv 1812.06127, eq. 2).
    """
    predictor.set_parameters(parameters)
    predictor.train()
    device = predictor.feature_mean.device
    anchors = [p.detach().clone() for p in predictor.parameters()] if proximal_mu else []
    optimizer = torch.optim.AdamW(
        predictor.parameters(), weight_decay=config.weight_decay, fused=True
    )
    losses = []
    steps = training_splits(data, config, seed, server_round, len(learning_rates))
    for learning_rate, splits in zip(learning_rates, steps, strict=True):
        optimizer.param_groups[0]["lr"] = learning_rate
        episode = make_episode([(data, split) for split in splits]).to(device)
        loss = episode_losses(predictor, episode, config.objective).mean()
        losses.append(loss.detach())
        for parameter, anchor in zip(predictor.parameters(), anchors, strict=bool(anchors)):
            loss = loss + 0.5 * proximal_mu * (parameter - anchor).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return LocalUpdate(
        parameters={n: p.detach().cpu().clone() for n, p in predictor.named_parameters()},
        loss=float(torch.stack(losses).mean()),
        num_examples=len(data.trainable),
    )
