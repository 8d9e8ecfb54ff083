"""Our predictor, data and local training on Apple's pfl-research: a fast peer doing the same work.

pfl pins releases of attrs and absl older than Flower's, so it needs an environment of its own:

    pip install pfl==0.6.0 torch==2.13.0 pandas pyarrow huggingface_hub safetensors filelock \
        scikit-learn psutil && pip install --no-deps -e .
    python benchmarks/pfl_peer.py --clients 128 --local-steps 6 --rounds 3
    torchrun --nproc-per-node 2 benchmarks/pfl_peer.py --clients 128 --threads 1 --rounds 3

Initial parameters, episodes, optimizer, the learning rate of each step and the clients' weights
are ours. `--check` compares with our own `train_client` and the weighted mean, in float64: in
float32 Adam blows rounding up within two rounds, also between two orders of our own clients.

A process trains client after client; `torchrun` splits them over processes. Mixed precision (other
numbers) and `torch.compile` (episodes vary in size) are not used. pfl takes losses in evaluation
only, so none per round, unlike us; it evaluates in round 1 (no metrics), which the median omits.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from importlib import metadata
from operator import add

import numpy as np
import psutil
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import get_default_device
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from safetensors.torch import save_file
from torch import Tensor

from task.config import RunConfig, TrainConfig, parse_override
from task.episodes import Episode, make_episode
from task.features import GroupData, feature_sums, load_group, load_roles
from task.predictor import PreferencePredictor
from task.training import episode_losses, train_client, training_splits


class PeerPredictor(PreferencePredictor):
    """The predictor with the two methods that pfl calls."""

    def loss(self, objective: str, **tensors: Tensor) -> Tensor:
        """Return the mean loss of a step's episodes."""
        episode = Episode(**({"context_mask_BC": None} | tensors))
        return episode_losses(self, episode, objective).mean()

    def metrics(self, **tensors: Tensor) -> dict[str, float]:
        """Return no metrics: only training is measured."""
        return {}


class ClientDataset(Dataset):
    """A user in round `number`: each batch is the seeded episodes of one local step."""

    def __init__(self, data: GroupData, features: Tensor, config: RunConfig, number: int) -> None:
        train, seed = config.train, config.run.seed
        super().__init__((), user_id=data.group, train_kwargs={"objective": train.objective})
        self._data, self._features = data, features
        self._steps = training_splits(data, train, seed, number, train.local_steps)

    def __len__(self) -> int:
        """Return what `WeightByDatapoints` weighs the user by: our FedAvg's number of examples."""
        return len(self._data.trainable)

    def iter(self, batch_size: int | None) -> Iterator[dict[str, Tensor]]:
        """Yield each step's tensors on the device, where pfl would move them."""
        options = {"features": self._features, "device": self._features.device}
        for splits in self._steps:
            episode = make_episode([(self._data, split) for split in splits], **options)
            # pfl cannot take None for a tensor, which the mask is when all episodes are as long.
            yield {name: value for name, value in vars(episode).items() if value is not None}


class RoundClock(TrainingProcessCallback):
    """Times of the first round's begin and of each round's end: as many as the round's number."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """See `TrainingProcessCallback`."""
        self._tick(model)
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """See `TrainingProcessCallback`."""
        self._tick(model)
        return False, Metrics()

    def _tick(self, model: PyTorchModel) -> None:
        if model.pytorch_model.feature_mean.is_cuda:
            torch.cuda.synchronize()
        self.ticks.append(time.monotonic())


def initial_predictor(config: RunConfig, groups: Sequence[GroupData]) -> PeerPredictor:
    """Return the predictor that our ServerApp starts from."""
    sums = reduce(add, (feature_sums(data) for data in groups))
    return PeerPredictor.initial(config.predictor, sums, {}, config.run.seed)


def pfl_model(predictor: PeerPredictor, train: TrainConfig, clock: RoundClock) -> PyTorchModel:
    """Wrap the predictor with our local optimizer, and SGD that adds the mean difference."""

    def local_optimizer(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        adam = torch.optim.AdamW(parameters, lr=lr, weight_decay=train.weight_decay, fused=True)
        # pfl has a learning rate for all of a client's steps, our schedule one for each.
        rates = iter(train.learning_rates(len(clock.ticks)))
        adam.register_step_pre_hook(lambda *_: adam.param_groups[0].update(lr=next(rates)))
        return adam

    return PyTorchModel(predictor, local_optimizer, torch.optim.SGD(predictor.parameters(), lr=1.0))


def run_pfl(config: RunConfig, groups: Sequence[GroupData], predictor: PeerPredictor) -> RoundClock:
    """Train the predictor all rounds with pfl, all groups in each."""
    clock, rounds = RoundClock(), config.train.num_rounds
    features = torch.from_numpy(np.array(groups[0].features)).to(get_default_device())
    users = FederatedDataset(
        lambda data: ClientDataset(data, features, config, len(clock.ticks)),
        get_user_sampler("minimize_reuse", groups),  # in turn: a cohort is everybody
    )
    backend = SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()])
    algorithm = NNAlgorithmParams(
        rounds, evaluation_frequency=rounds, train_cohort_size=len(groups), val_cohort_size=None
    )
    rate, steps = config.train.learning_rate, config.train.local_steps
    local = NNTrainHyperParams(None, None, rate, local_num_steps=steps)  # no batch size, no epochs
    model = pfl_model(predictor, config.train, clock)
    FederatedAveraging().run(
        *(algorithm, backend, model, local), callbacks=[clock], send_metrics_to_platform=False
    )
    return clock


def run_plain(config: RunConfig, groups: Sequence[GroupData]) -> dict[str, Tensor]:
    """Return the parameters that our own local training and its weighted mean lead to."""
    predictor = initial_predictor(config, groups)
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    predictor.to(get_default_device())
    examples = sum(len(data.trainable) for data in groups)
    for number in range(1, config.train.num_rounds + 1):
        mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
        rates = config.train.learning_rates(number)
        options = {"learning_rates": rates, "seed": config.run.seed, "server_round": number}
        for data in groups:
            update = train_client(predictor, parameters, data, config.train, **options)
            for name, trained in update.parameters.items():
                mean[name].add_(trained, alpha=update.num_examples / examples)
        parameters = mean
    return parameters


def check(config: RunConfig, groups: Sequence[GroupData]) -> float:
    """Return the largest relative difference of a tensor between pfl's and our own training."""
    torch.set_default_dtype(torch.float64)
    # Synthetic groups answer equally many questions, which would hide wrong weights.
    uneven = [replace(data, trainable=data.trainable[i % 8 * 4 :]) for i, data in enumerate(groups)]
    ours = run_plain(config, uneven)
    predictor = initial_predictor(config, uneven)
    run_pfl(config, uneven, predictor)
    theirs = {name: p.detach().cpu() for name, p in predictor.named_parameters()}
    return max(float((theirs[name] - p).norm() / p.norm()) for name, p in ours.items())


def parse_arguments() -> tuple[argparse.Namespace, RunConfig]:
    """Parse the command line into options and the run config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--clients", 4), ("--local-steps", 6), ("--rounds", 2)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--device", default=get_default_device().type)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", help="write the final parameters (safetensors)")
    parser.add_argument("--check", action="store_true", help="only compare with our own training")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    flat = {
        "data.synthetic-groups": arguments.clients + 2,
        "data.num-held-out-groups": 2,
        "train.local-steps": arguments.local_steps,
        "train.num-rounds": arguments.rounds,
    }
    config = RunConfig.from_flat(flat | dict(map(parse_override, arguments.overrides)))
    train = config.train
    if config.strategy.name != "fedavg" or train.clients_per_round or train.num_rounds < 2:
        parser.error("only fedavg over all clients is ported, and the first round is not timed")
    return arguments, config


def measured(clock: RoundClock, config: RunConfig, clients: int) -> dict[str, str | float]:
    """Return the figures of a run; memory and start are this process's."""
    running = time.time() - psutil.Process().create_time()
    median = float(np.median(np.diff(clock.ticks[1:])))
    return {
        "engine": "pfl",
        "version": metadata.version("pfl"),
        "clients": clients,
        "local_steps": config.train.local_steps,
        "seconds_per_round": median,
        "clients_per_second": clients / median,
        "startup_seconds": running - (time.monotonic() - clock.ticks[0]),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,  # KiB
        "device": str(get_default_device()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Train with pfl and print the figures, or the check's, as JSON."""
    arguments, config = parse_arguments()
    os.environ["PFL_PYTORCH_DEVICE"] = arguments.device
    torch.set_num_threads(arguments.threads)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = [load_group(config, group) for group, role in roles.items() if role == "train"]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(groups) % processes:  # pfl would sample other clients than each once
        raise SystemExit(f"{len(groups)} clients do not divide among {processes} processes")
    if arguments.check:
        figures = {"largest_relative_difference": check(config, groups)}
    else:
        predictor = initial_predictor(config, groups)
        figures = measured(run_pfl(config, groups, predictor), config, len(groups))
    if os.environ.get("RANK", "0") == "0":
        if arguments.save and not arguments.check:
            save_file(dict(predictor.named_parameters()), arguments.save)
        print(json.dumps(figures | {"processes": processes}))


if __name__ == "__main__":
    main()
