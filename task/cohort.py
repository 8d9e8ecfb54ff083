"""Training and scoring many clients in one process, as few large computations.

Clients of similar size are trained as stacks (`task.stacking`); stacks are dealt out to threads in
shards. Unless memory is short, nothing here depends on how many threads or processes take part.

Suffixes: K clients of a stack, n clients of a shard, P entries of a parameter vector.
"""

import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from task.aggregation import Reduction, WeightedSum, clip_update
from task.config import RunConfig
from task.episodes import Split, make_episode
from task.evaluation import evaluation_splits, score_episode
from task.features import GroupData
from task.metrics import GroupScores, Mean
from task.parameters import Layout
from task.population import PopulationPrior
from task.predictor import PreferencePredictor
from task.reports import make_reports
from task.stacking import Stack
from task.stacking_size import stack_size, training_tokens
from task.training import StackUpdate, train_stack

SWITCH_SECONDS = 1e-4
"""How long a thread may hold Python's lock while another waits; Python's default is 5 ms, as long
as several tensor operations."""


@dataclass(frozen=True)
class Start:
    """Global parameters, feature statistics and population's answers that all clients are sent."""

    parameters: Mapping[str, Tensor]
    feature_mean: Tensor
    feature_std: Tensor
    prior: PopulationPrior | None = None


@dataclass(frozen=True)
class TrainTask:
    """How clients are trained in a round, the same for all of them.

    Attributes:
        learning_rates: one per local step.
        server_round: the federated round, from 1.
        proximal_mu: weight of FedProx's proximal term.
        reports: what to report of the parameters before training (`task.reports`).
        reduction: what to return instead of each client's parameters; None: those.
    """

    learning_rates: Sequence[float]
    server_round: int
    proximal_mu: float = 0.0
    reports: tuple[str, ...] = ()
    reduction: Reduction | None = None


@dataclass(frozen=True)
class TrainedShard:
    """What training some clients gave, in their order.

    Attributes:
        losses: mean loss of each client's local steps.
        num_examples: answered questions that each client trains on.
        reports: what each client reports, by name.
        faults: position of a client whose parameters must not be used, and why.
        values_nP: each client's parameters, unless they were reduced.
        total: their weighted sum without faulty clients, if they were reduced.
        within: whether each client's update was within the clipping norm, if there is one.
    """

    losses: list[float]
    num_examples: list[int]
    reports: list[dict[str, Mean]]
    faults: dict[int, str]
    values_nP: Tensor | None
    total: WeightedSum | None
    within: list[bool] | None = None


class Cohort:
    """Computes clients on one device.

    Args:
        config: the run's settings.
        device: where to compute.
        num_threads: how many threads will call `train` and `score` at the same time.
    """

    def __init__(self, config: RunConfig, device: torch.device, num_threads: int) -> None:
        self._config = config
        self._device = device
        self._num_threads = num_threads
        self._features: tuple[NDArray[np.float32], Tensor] | None = None
        self._splits: dict[str, list[Split]] = {}
        self._local = threading.local()  # the stacks of each thread
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        precision = config.engine.precision
        self._autocast = torch.bfloat16 if precision == "bfloat16" else None
        if device.type == "cuda":
            high = precision == "float32"
            torch.set_float32_matmul_precision("highest" if high else "high")

    def stacks(self, clients: Sequence[GroupData]) -> list[list[int]]:
        """Return which clients are trained together: positions, large clients first.

        A function of the clients and the settings, unless memory is short.
        """
        tokens = [training_tokens(data, self._config) for data in clients]
        order = sorted(range(len(clients)), key=lambda k: (-tokens[k], k))
        stacks, first = [], 0
        while first < len(order):
            size = stack_size(tokens[order[first]], self._config, self._device, self._num_threads)
            stacks.append(order[first : first + size])
            first += size
        return stacks

    def train(
        self, start: Start, task: TrainTask, stacks: Sequence[Sequence[GroupData]]
    ) -> TrainedShard:
        """Train stacks of clients, one stack after another."""
        layout = Layout.of({name: value.shape for name, value in start.parameters.items()})
        start_P = layout.flatten(start.parameters)
        start_on_device_P = start_P.to(self._device)
        total = WeightedSum(layout.size, self._device) if task.reduction else None
        losses: list[float] = []
        num_examples: list[int] = []
        reports: list[dict[str, Mean]] = []
        faults: dict[int, str] = {}
        within: list[bool] = []
        values = []
        trained = (self._trained(start, start_on_device_P, task, clients) for clients in stacks)
        for clients, update in chain.from_iterable(trained):
            losses_K = update.losses_K.tolist()
            finite_K = update.values_KP.isfinite().all(1).tolist()
            for k, data in enumerate(clients):
                within.append(True)
                if not (finite_K[k] and math.isfinite(losses_K[k])):
                    faults[len(losses) + k] = _not_finite(layout, update.values_KP[k], losses_K[k])
                elif total is not None and task.reduction is not None:
                    kept_P = values_P = update.values_KP[k]
                    if norm := task.reduction.clipping_norm:
                        kept_P = clip_update(start_on_device_P, values_P, norm)
                    within[-1] = kept_P is values_P
                    total.add(kept_P, len(data.trainable) if task.reduction.weighted else 1.0)
            if total is None:
                values.append(update.values_KP.cpu().clone())
            losses += losses_K
            num_examples += [len(data.trainable) for data in clients]
            reports += self._reports(start, task, clients)
        if total is None or task.reduction is None:
            values_nP = torch.cat(values)
            return TrainedShard(losses, num_examples, reports, faults, values_nP, None)
        told = within if task.reduction.clipping_norm else None
        return TrainedShard(losses, num_examples, reports, faults, None, total.cpu(), told)

    def _trained(
        self, start: Start, start_P: Tensor, task: TrainTask, clients: Sequence[GroupData]
    ) -> Iterator[tuple[Sequence[GroupData], StackUpdate]]:
        """Train a stack; in halves, if the estimate was wrong and memory is out."""
        update = None
        try:
            update = train_stack(
                self._stack(start, len(clients)),
                start_P,
                clients,
                self._config.train,
                learning_rates=task.learning_rates,
                seed=self._config.run.seed,
                server_round=task.server_round,
                proximal_mu=task.proximal_mu,
                features=self._features_on_device(clients[0]),
                autocast=self._autocast,
            )
        except torch.OutOfMemoryError:
            if len(clients) == 1:
                raise
        if update is not None:
            yield clients, update
            return
        # Not inside the except clause: its traceback would keep alive what did not fit.
        self._local.stacks.clear()
        torch.cuda.empty_cache()
        for half in (clients[: len(clients) // 2], clients[len(clients) // 2 :]):
            yield from self._trained(start, start_P, task, half)

    @torch.inference_mode()
    def _reports(
        self, start: Start, task: TrainTask, clients: Sequence[GroupData]
    ) -> list[dict[str, Mean]]:
        if not task.reports:
            return [{} for _ in clients]
        predictor = self._predictor(start)
        predictor.set_parameters(start.parameters)
        return [make_reports(predictor, data, self._config, task.reports) for data in clients]

    def batches(self, groups: Sequence[GroupData]) -> list[list[tuple[int, int]]]:
        """Return which (group, context draw) pairs are scored together, large ones first."""
        tokens = {
            (index, draw): int(data.answers.lengths[split.context].sum())
            + int(data.answers.lengths[split.target].sum())
            for index, data in enumerate(groups)
            for draw, split in enumerate(self._evaluation_splits(data))
        }
        order = sorted(tokens, key=lambda pair: (-tokens[pair], pair))
        batches, first = [], 0
        while first < len(order):
            size = stack_size(
                tokens[order[first]],
                self._config,
                self._device,
                self._num_threads,
                training=False,
            )
            batches.append(order[first : first + size])
            first += size
        return batches

    @torch.inference_mode()
    def score(
        self, start: Start, batches: Sequence[Sequence[tuple[GroupData, int, NDArray[np.int64]]]]
    ) -> list[GroupScores]:
        """Score batches of (group, context draw, keys of seen questions), in their order."""
        predictor = self._predictor(start)
        predictor.set_parameters(start.parameters)
        predictor.eval()
        scores = []
        for batch in batches:
            parts = [(data, self._evaluation_splits(data)[draw]) for data, draw, _ in batch]
            features = self._features_on_device(batch[0][0])
            episode = make_episode(parts, features=features, device=self._device)
            with torch.autocast(
                self._device.type, self._autocast, enabled=self._autocast is not None
            ):
                seen_keys = [seen for *_, seen in batch]
                scores += score_episode(predictor, episode, parts, seen_keys, start.prior)
        return scores

    def _evaluation_splits(self, data: GroupData) -> list[Split]:
        """Return a group's context draws, which are the same in every round."""
        if data.group not in self._splits:
            self._splits[data.group] = evaluation_splits(
                data, self._config.evaluation, self._config.run.seed
            )
        return self._splits[data.group]

    def _features_on_device(self, data: GroupData) -> Tensor | None:
        """Return the survey's features where they are gathered: on a GPU, moved there once."""
        if self._device.type == "cpu":
            return None
        if self._features is None or self._features[0] is not data.features:
            moved = torch.from_numpy(np.array(data.features)).to(self._device)
            self._features = (data.features, moved)
        return self._features[1]

    def _stack(self, start: Start, size: int) -> Stack:
        """Return this thread's stack of a size, with the server's feature statistics."""
        stacks: dict[int, Stack] = self._local.__dict__.setdefault("stacks", {})
        if size not in stacks:
            while len(stacks) >= 2:  # a full one and a last one; more would only hold memory
                del stacks[next(iter(stacks))]
            stacks[size] = Stack(self._new_predictor(len(start.feature_mean)), size)
        _set_statistics(stacks[size].module, start)
        return stacks[size]

    def _predictor(self, start: Start) -> PreferencePredictor:
        """Return this thread's predictor for scoring."""
        if not hasattr(self._local, "predictor"):
            self._local.predictor = self._new_predictor(len(start.feature_mean))
        predictor: PreferencePredictor = self._local.predictor
        _set_statistics(predictor, start)
        return predictor

    def _new_predictor(self, feature_dimension: int) -> PreferencePredictor:
        return PreferencePredictor.of(self._config.predictor, feature_dimension).to(self._device)


def _set_statistics(predictor: PreferencePredictor, start: Start) -> None:
    predictor.feature_mean.copy_(start.feature_mean)
    predictor.feature_std.copy_(start.feature_std)


def _not_finite(layout: Layout, values_P: Tensor, loss: float) -> str:
    """Say what is not finite, in the words of `server_app.replies`."""
    for name, values in layout.views(values_P).items():
        if not values.isfinite().all():
            return f"parameter {name} is not finite"
    return f"loss = {loss} is not finite"
