import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from server_app.cohort_workers import CohortWorker, LocalWorker, Resources, start_workers
from task.config import EngineConfig
from task.errors import ConfigError
from tests.server_app.cohort_runs import cohort_config

Machine = Callable[[int, int], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend to be a machine with so many cores and GPUs."""

    def pretend(cores: int, gpus: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return pretend


@pytest.mark.parametrize(
    ("cores", "settings", "expected"),
    [
        (1, {}, (1, 1)),
        (2, {}, (1, 2)),
        (8, {}, (1, 8)),
        (15, {}, (1, 15)),
        (16, {}, (2, 8)),
        (64, {}, (8, 8)),
        (16, {"num_workers": 3}, (3, 5)),
        (2, {"num_workers": 4}, (4, 1)),
        (16, {"num_threads": 3}, (2, 3)),
        (2, {"num_workers": 1, "num_threads": 6}, (1, 6)),
    ],
)
def test_without_gpus_cores_are_shared_out_among_workers(
    machine: Machine, cores: int, settings: dict[str, int], expected: tuple[int, int]
) -> None:
    machine(cores, 0)
    for device in ("auto", "cpu"):
        assert Resources.of(EngineConfig(device=device, **settings)) == Resources(*expected, "cpu")


def test_where_the_affinity_is_unknown_all_cores_count(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(2, 0)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert Resources.of(EngineConfig()) == Resources(1, 4, "cpu")


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(("num_workers", "expected"), [(0, 4), (1, 1), (3, 3), (4, 4)])
def test_there_is_a_worker_per_gpu_at_most(
    machine: Machine, device: str, num_workers: int, expected: int
) -> None:
    machine(64, 4)
    found = Resources.of(EngineConfig(device=device, num_workers=num_workers))
    assert (found.num_workers, found.device) == (expected, "cuda")
    chosen = Resources.of(EngineConfig(device=device, num_workers=num_workers, num_threads=5))
    assert chosen == Resources(expected, 5, "cuda")


def test_more_workers_than_gpus_are_refused(machine: Machine) -> None:
    machine(64, 2)
    with pytest.raises(ConfigError, match=r"engine\.num-workers = 3: expected at most 2"):
        Resources.of(EngineConfig(num_workers=3))


def test_gpus_can_be_left_alone(machine: Machine) -> None:
    machine(8, 2)
    assert Resources.of(EngineConfig(device="cpu", num_workers=4)) == Resources(4, 2, "cpu")


def test_cuda_where_there_is_none_is_refused(machine: Machine) -> None:
    machine(8, 0)
    with pytest.raises(ConfigError, match=r"engine\.device = 'cuda'.*PyTorch sees none"):
        Resources.of(EngineConfig(device="cuda"))


def test_one_worker_is_this_process_with_one_core_per_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(
        CohortWorker, "stacks", lambda *_: (os.getpid(), torch.get_num_threads()), raising=True
    )
    workers = start_workers(cohort_config(engine__num_threads=2, engine__num_workers=1))
    assert isinstance(workers, LocalWorker)
    assert workers.submit("stacks", []).result() == (os.getpid(), 1)
    workers.close()
    assert torch.get_num_threads() == before


def test_what_a_worker_raises_is_raised_where_its_result_is_asked_for() -> None:
    workers = start_workers(cohort_config(engine__num_workers=1))
    future = workers.submit("stacks", ["Nobody"], worker=0)
    with pytest.raises(KeyError, match="Nobody"):
        future.result()
    workers.close()


def test_a_closed_worker_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(CohortWorker, "stacks", lambda _, groups: done.append(groups))
    workers = start_workers(cohort_config(engine__num_workers=1, engine__num_threads=1))
    workers.close()
    with pytest.raises(RuntimeError):
        workers.submit("stacks", [])
    assert done == []
