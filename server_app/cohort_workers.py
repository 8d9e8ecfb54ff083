"""Resident workers of the cohort engine: one in this process, or Ray actors."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from task.cohort import Cohort, Start, TrainedShard, TrainTask
from task.config import EngineConfig, RunConfig
from task.errors import ConfigError
from task.features import GroupData, load_group
from task.metrics import GroupScores

CLIENT_APP = "client_app.app"
"""The module with the ClientApp that pyproject.toml names."""

NODE_ID = 2  # 1 is the server's
THREADS_PER_WORKER = 8
"""With more, threads wait for each other's turn in Python: then there are more workers."""


@dataclass(frozen=True)
class Resources:
    """Workers, and what each of them computes with.

    Attributes:
        num_workers: processes: Ray actors, or if it is one, the server's own process.
        num_threads: stacks that a worker computes at the same time, each on a core or in turns on a
            GPU.
        device: `cpu` or `cuda`; worker i has GPU i.
    """

    num_workers: int
    num_threads: int
    device: str

    @classmethod
    def of(cls, config: EngineConfig) -> "Resources":
        """Choose what the config leaves open.

        Raises:
            ConfigError: CUDA is asked for and there is none, or fewer GPUs than workers.
        """
        gpus = torch.cuda.device_count()
        if config.device == "cuda" and not gpus:
            raise ConfigError("engine.device = 'cuda': expected a CUDA device, PyTorch sees none.")
        if config.device != "cpu" and gpus:
            if config.num_workers > gpus:
                raise ConfigError(
                    f"engine.num-workers = {config.num_workers}: expected at most {gpus}, one per "
                    "GPU."
                )
            # Two threads: one prepares episodes while the GPU works for the other.
            return cls(config.num_workers or gpus, config.num_threads or 2, "cuda")
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        workers = config.num_workers or max(1, cores // THREADS_PER_WORKER)
        return cls(workers, config.num_threads or max(1, cores // workers), "cpu")


class CohortWorker:
    """Computes clients for the cohort engine, and keeps what lasts: data, stacks, node state."""

    def __init__(self, config: RunConfig, resources: Resources, index: int) -> None:
        device = torch.device("cpu")
        if resources.device == "cuda":
            # A Ray actor sees its own GPU alone, the server's process all of them.
            device = torch.device("cuda", 0 if index >= torch.cuda.device_count() else index)
        self._config = config
        self._cohort = Cohort(config, device, resources.num_threads)
        self._loading = threading.Lock()
        self._calling = threading.Lock()
        self._app: ClientApp | None = None
        self._context = Context(
            run_id=0,
            node_id=NODE_ID,
            node_config={"partition-id": 0, "num-partitions": 1},
            state=RecordDict(),
            run_config=dict(config.to_flat()),
        )

    def stacks(self, groups: Sequence[str]) -> list[list[int]]:
        """See `Cohort.stacks`."""
        return self._cohort.stacks([self._load(group) for group in groups])

    def batches(self, groups: Sequence[str]) -> list[list[tuple[int, int]]]:
        """See `Cohort.batches`."""
        return self._cohort.batches([self._load(group) for group in groups])

    def train(self, start: Start, task: TrainTask, stacks: Sequence[Sequence[str]]) -> TrainedShard:
        """See `Cohort.train`."""
        data = [[self._load(group) for group in groups] for groups in stacks]
        return self._cohort.train(start, task, data)

    def score(
        self,
        start: Start,
        seen_keys: Sequence[NDArray[np.int64]],
        batches: Sequence[Sequence[tuple[str, int, int]]],
    ) -> list[GroupScores]:
        """Score batches of (group, context draw, position in `seen_keys`)."""
        data = [
            [(self._load(group), draw, seen_keys[k]) for group, draw, k in batch]
            for batch in batches
        ]
        return self._cohort.score(start, data)

    def _load(self, group: str) -> GroupData:
        """Load a group; one thread at a time, or each would load the survey's features anew."""
        with self._loading:
            return load_group(self._config, group)

    def call(self, message: Message) -> Message:
        """Let the ClientApp answer; one message at a time, as in a process of its own."""
        with self._calling:
            if self._app is None:
                self._app = import_module(CLIENT_APP).app
            assert self._app is not None
            return self._app(message, self._context)


class Workers(Protocol):
    """Takes work for one worker or for any."""

    resources: Resources

    def submit(self, method: str, *arguments: Any, worker: int | None = None) -> "Future[Any]":
        """Let a worker (None: one that has least to do) call a method of `CohortWorker`."""

    def share(self, value: Any) -> Any:
        """Return something to pass as an argument to many calls instead of a large value."""

    def close(self) -> None:
        """Stop."""


class LocalWorker:
    """One worker in this process, a pool of threads around it."""

    def __init__(self, config: RunConfig, resources: Resources) -> None:
        self.resources = resources
        self._worker = CohortWorker(config, resources, 0)
        # One core per thread, as a client has in a simulation of Flower's.
        self._threads = ThreadPoolExecutor(
            resources.num_threads, "cohort", initializer=partial(torch.set_num_threads, 1)
        )

    def submit(self, method: str, *arguments: Any, worker: int | None = None) -> "Future[Any]":
        """See `Workers.submit`."""
        return self._threads.submit(getattr(self._worker, method), *arguments)

    def share(self, value: Any) -> Any:
        """See `Workers.share`."""
        return value

    def close(self) -> None:
        """See `Workers.close`."""
        self._threads.shutdown(cancel_futures=True)


class RayWorkers:
    """One Ray actor per worker."""

    def __init__(self, config: RunConfig, resources: Resources) -> None:
        import ray

        self.resources = resources
        self._ray = ray
        # Under `flwr run` Ray is there already, and Flower's own actors hold what it manages.
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(include_dashboard=False, log_to_driver=True, logging_level=logging.ERROR)
            if threading.current_thread() is threading.main_thread():
                # Ray's would end the process at once: what is finished could not be saved.
                signal.signal(signal.SIGTERM, handler)
        self._busy = [0] * resources.num_workers
        self._lock = threading.Lock()
        self._actors = [self._actor(config, index) for index in range(resources.num_workers)]

    def submit(self, method: str, *arguments: Any, worker: int | None = None) -> "Future[Any]":
        """See `Workers.submit`."""
        with self._lock:
            chosen = worker
            if chosen is None:
                chosen = min(range(len(self._busy)), key=lambda index: (self._busy[index], index))
            self._busy[chosen] += 1
        reference = getattr(self._actors[chosen], method).remote(*arguments)
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda _: self._free(chosen))
        return future

    def share(self, value: Any) -> Any:
        """See `Workers.share`."""
        return self._ray.put(value)

    def close(self) -> None:
        """See `Workers.close`."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._owns_ray:
            self._ray.shutdown()

    def _free(self, worker: int) -> None:
        with self._lock:
            self._busy[worker] -= 1

    def _actor(self, config: RunConfig, index: int) -> Any:
        environment = {"OMP_NUM_THREADS": "1"}
        if self.resources.device == "cuda":
            # Set by hand, so that it holds as well where Flower's actors have all of Ray's GPUs.
            named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            visible = [name.strip() for name in named.split(",") if name.strip()]
            environment["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
            environment["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        options = {
            "num_cpus": 0,
            "max_concurrency": self.resources.num_threads,
            "runtime_env": {"env_vars": environment},
        }
        actor = self._ray.remote(CohortWorker).options(**options)
        return actor.remote(config, self.resources, index)


def start_workers(config: RunConfig) -> Workers:
    """Start the workers that the config asks for."""
    resources = Resources.of(config.engine)
    if resources.num_workers == 1:
        return LocalWorker(config, resources)
    return RayWorkers(config, resources)
