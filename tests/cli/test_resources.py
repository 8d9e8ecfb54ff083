import os
from itertools import product

import pytest
import torch

from cli.resources import ACTORS_PER_GPU, simulation_resources


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be a machine with so many CPUs and GPUs."""

    def pretend(cpus: int, gpus: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return pretend


def settings_of(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in (pair.split("=") for pair in text.split())}


def test_without_gpus_there_is_an_actor_per_cpu(machine) -> None:
    machine(cpus=8, gpus=0)
    resources = simulation_resources(20)
    assert resources.federation_config() == (
        "num-supernodes=20 client-resources-num-cpus=1 client-resources-num-gpus=0.0 "
        "init-args-num-cpus=8 init-args-num-gpus=0"
    )


def test_there_are_no_more_actors_than_clients(machine) -> None:
    machine(cpus=64, gpus=0)
    assert simulation_resources(5).num_actors == 5


def test_actors_share_gpus(machine) -> None:
    machine(cpus=64, gpus=2)
    settings = settings_of(simulation_resources(100).federation_config())
    assert settings["init-args-num-cpus"] == 2 * ACTORS_PER_GPU
    assert settings["client-resources-num-gpus"] == 1 / ACTORS_PER_GPU
    assert settings["init-args-num-gpus"] == 2


def test_few_cpus_limit_the_actors_of_a_gpu(machine) -> None:
    machine(cpus=4, gpus=1)
    settings = settings_of(simulation_resources(100).federation_config())
    assert settings["init-args-num-cpus"] == 4
    assert settings["client-resources-num-gpus"] == 0.25


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8])
def test_ray_can_place_every_actor(machine, gpus: int) -> None:
    machine(cpus=96, gpus=gpus)
    for clients, actors in product((1, 2, 3, 5, 6, 7, 12, 100), (0, 1, 6, 7)):
        settings = settings_of(simulation_resources(clients, actors).federation_config())
        share = settings["client-resources-num-gpus"]
        assert share * settings["init-args-num-cpus"] <= gpus + 1e-9
        assert 0 < share <= 1 or share == int(share)  # Ray accepts no fraction above 1


def test_the_number_of_actors_can_be_chosen(machine) -> None:
    machine(cpus=2, gpus=0)
    resources = simulation_resources(20, num_actors=6)
    assert (resources.num_actors, resources.num_nodes) == (6, 20)


@pytest.mark.parametrize(("clients", "nodes"), [(1, 2), (2, 2), (20, 20), (256, 256), (500, 256)])
def test_there_is_a_node_per_client_up_to_a_limit(clients: int, nodes: int) -> None:
    assert simulation_resources(clients).num_nodes == nodes
