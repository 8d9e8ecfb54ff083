"""Local DP-SGD with Opacus (arXiv 1607.00133, algorithm 1): an example is an episode.

No two episodes of a round share a question, so that one answer moves one clipped gradient.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor

from task.config import RunConfig
from task.episodes import Episode, Split, disjoint_episodes, drop_features, make_episode
from task.features import GroupData
from task.noise import Noise, SecureNoise, hardened_normal, noise_source
from task.predictor import PreferencePredictor
from task.privacy_config import PrivacyConfig
from task.question_ledger import TRAIN, QuestionLedger, Release, digest_request
from task.seeding import derive_seed
from task.training import FeatureDropout, LocalUpdate, episode_losses


class SecureDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with noise that nobody can predict.

    Its own `secure_mode` adds up four normal numbers too, but of torch's Mersenne twister, unless
    `torchcsprng` is there, which has had no release for years.

    Args:
        optimizer: what makes the step.
        noise: where noise comes from.
        **settings: as of `DPOptimizer`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, noise: Noise, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self._noise = noise

    def add_noise(self) -> None:
        """Add noise to the sums of clipped gradients, in double precision."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            _check_processed_flag(p.summed_grad)
            noise = torch.from_numpy(deviation * hardened_normal(self._noise, p.numel()))
            noisy = p.summed_grad.double() + noise.view_as(p).to(p.device)
            p.grad = noisy.to(p.dtype)
            _mark_as_processed(p.summed_grad)


def train_privately(
    predictor: PreferencePredictor,
    parameters: Mapping[str, Tensor],
    data: GroupData,
    config: RunConfig,
    *,
    learning_rates: Sequence[float],
    server_round: int,
    ledger: QuestionLedger,
    proximal_mu: float = 0.0,
) -> LocalUpdate:
    """Train on one group's questions with DP-SGD, after it was charged for in the ledger.

    A step draws every episode with probability `privacy.sample-rate`, adds up their gradients, each
    clipped to `privacy.gradient-clipping-norm`, adds Gaussian noise of `privacy.noise-multiplier`
    times that norm, divides by the number of episodes it expects to draw, and makes a step of plain
    SGD. Proximal term and weight decay depend on no answer and are added after the noise.

    Parameters that the objective has no use for (of the categorical one: deviations) stay as they
    were sent. `train.episodes-per-step` and `train.min-context` to `train.max-target` have no say.

    Args:
        predictor: the module, with the server's feature statistics; it is left as it is.
        parameters: global parameters by name, as the server sent them.
        data: the group's data.
        config: the run's settings.
        learning_rates: one per local step; as many steps are made.
        server_round: the federated round, from 1.
        ledger: where it is charged for.
        proximal_mu: weight of the proximal term (arXiv 1812.06127, eq. 2).

    Returns:
        The trained parameters. The loss is exact, outside of the guarantee: that of all episodes of
        the round under the parameters that were sent, and only where `privacy.metrics` is `full`;
        NaN otherwise.

    Raises:
        ConfigError: the group has too few questions.
        BudgetError: it would exceed the budget; nothing was computed.
        RunDirectoryError: the ledger is damaged.
        ValueError: the parameters are not this predictor's.
    """
    privacy, seed = config.privacy, config.run.seed
    splits = disjoint_episodes(data, privacy, seed, server_round)
    module = copy.deepcopy(predictor)  # Opacus leaves hooks and gradients behind
    module.set_parameters(parameters)
    statistics = {name: value for name, value in module.named_buffers() if value.numel()}
    settings = (list(learning_rates), server_round, proximal_mu, config.train, privacy, seed)
    release = Release(
        kind=TRAIN,
        server_round=server_round,
        request=digest_request({**parameters, **statistics}, data, *settings),
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=privacy.sample_rate,
        steps=len(learning_rates),
    )
    attempt = ledger.charge(data.group, release)
    if config.train.objective == "categorical":
        module.log_std.requires_grad_(False)
    # With the same noise, a release of another request would tell how the two differ.
    purpose = ("question", server_round, data.group, attempt, release.request)
    draws = noise_source(privacy.secure_noise, seed, *purpose, "draws")
    noise_seed = derive_seed(seed, "privacy noise", *purpose, "gradients")
    optimizer = _optimizer(module, privacy, privacy.sample_rate * len(splits), noise_seed)
    sgd = optimizer.original_optimizer.param_groups[0]
    sgd["weight_decay"] = config.train.weight_decay
    _attach_proximal_term(optimizer, proximal_mu)
    gradients = EpisodeGradients(module, data, splits, config, server_round)
    loss = gradients.mean_loss() if privacy.metrics == "full" else float("nan")
    for learning_rate in learning_rates:
        sgd["lr"] = learning_rate
        drawn = np.flatnonzero(draws.random(len(splits)) < privacy.sample_rate)
        optimizer.zero_grad(set_to_none=True)
        gradients.compute(drawn)
        optimizer.step()
    return LocalUpdate(
        parameters={name: p.detach().cpu() for name, p in module.named_parameters()},
        loss=loss,
        num_examples=len(data.trainable),
    )


class EpisodeGradients:
    """Gradients of single episodes, by Opacus, into `grad_sample` of every trained parameter.

    Args:
        module: the predictor; it gets Opacus' hooks.
        data: the group's data.
        splits: the round's episodes.
        config: objective and feature dropout.
        server_round: the federated round.
    """

    def __init__(
        self,
        module: PreferencePredictor,
        data: GroupData,
        splits: Sequence[Split],
        config: RunConfig,
        server_round: int,
    ) -> None:
        self._module = module
        self._hooked = GradSampleModule(module, loss_reduction="sum")
        self._data, self._splits, self._config = data, splits, config.train
        per_step = replace(config.train, episodes_per_step=len(splits))
        self._dropout = FeatureDropout(data, per_step, config.run.seed, server_round)

    def compute(self, drawn: NDArray[np.intp]) -> None:
        """Compute the gradients of some episodes, by position; of none there are none.

        An episode whose gradient is not finite has none: clipping would let it through, and the
        server, who chooses the parameters, could read an answer off whether it is.
        """
        kept_Bd = self._dropout.draw()[drawn] if self._config.feature_dropout else None
        trained = [p for p in self._module.parameters() if p.requires_grad]
        if not len(drawn):
            for p in trained:
                p.grad_sample = p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]
            return
        self._module.train()
        episode = self._episode(drawn)
        if kept_Bd is not None:
            mean_d, probability = self._module.feature_mean, self._config.feature_dropout
            episode = drop_features(episode, mean_d, kept_Bd, probability)
        # Hooks on the first layer's backward pass want an input that takes part in it.
        episode.context_x_BCd.requires_grad_()
        episode_losses(self._module, episode, self._config.objective).sum().backward()  # type: ignore[no-untyped-call]
        samples: list[Tensor] = [p.grad_sample for p in trained]  # type: ignore[attr-defined]
        finite_B = torch.stack([g.flatten(1).isfinite().all(1) for g in samples]).all(0)
        for sample in samples:
            sample[~finite_B] = 0

    @torch.no_grad()
    def mean_loss(self) -> float:
        """Return the mean loss of all episodes: exact, so nothing that is protected."""
        episode = self._episode(np.arange(len(self._splits)))
        return float(episode_losses(self._module, episode, self._config.objective).mean())

    def _episode(self, drawn: NDArray[np.intp]) -> Episode:
        parts = [(self._data, self._splits[position]) for position in drawn]
        return make_episode(parts, device=self._module.feature_mean.device)


def _optimizer(
    module: PreferencePredictor,
    privacy: PrivacyConfig,
    expected_batch_size: float,
    seed: int,
) -> DPOptimizer:
    """Return Opacus' optimizer around SGD, with the noise that the settings ask for."""
    trained = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=0.0)
    settings: dict[str, Any] = {
        "noise_multiplier": privacy.noise_multiplier,
        "max_grad_norm": privacy.gradient_clipping_norm,
        "expected_batch_size": expected_batch_size,
    }
    if privacy.secure_noise:
        return SecureDPOptimizer(sgd, noise=SecureNoise(), **settings)
    seeded = torch.Generator(module.feature_mean.device).manual_seed(seed)
    return DPOptimizer(sgd, generator=seeded, **settings)


def _attach_proximal_term(optimizer: DPOptimizer, proximal_mu: float) -> None:
    """Let every step add the gradient of mu / 2 * |parameters - start|^2, after the noise."""
    if not proximal_mu:
        return
    anchors = [p.detach().clone() for p in optimizer.params]

    def add_term(stepping: DPOptimizer) -> None:
        for p, anchor in zip(stepping.params, anchors, strict=True):
            p.grad.add_(p.detach() - anchor, alpha=proximal_mu)

    optimizer.attach_step_hook(add_term)
