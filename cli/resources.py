"""What of this machine a simulation uses."""

import math
import os
from dataclasses import dataclass

import torch

ACTORS_PER_GPU = 8
"""Each actor keeps a CUDA context of about half a gigabyte."""

MAX_NODES = 256
"""Flower hands one message per node and 0.1 s to the actors: more nodes, more messages."""


@dataclass(frozen=True)
class SimulationResources:
    """Ray actors, one CPU each, and the GPU share of each."""

    num_actors: int
    num_gpus: int
    num_nodes: int

    def federation_config(self) -> str:
        """Return the value of `flwr run --federation-config`."""
        # Rounded down, so that all actors find room; Ray takes no fractions above 1.
        share = min(1.0, math.floor(1e4 * self.num_gpus / self.num_actors) / 1e4)
        return (
            f"num-supernodes={self.num_nodes} client-resources-num-cpus=1 "
            f"client-resources-num-gpus={share} init-args-num-cpus={self.num_actors} "
            f"init-args-num-gpus={self.num_gpus}"
        )


def simulation_resources(num_clients: int, num_actors: int = 0) -> SimulationResources:
    """Choose actors, GPU share and nodes for a number of clients; `num_actors` 0 chooses."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = torch.cuda.device_count()
    limit = min(cpus or 1, ACTORS_PER_GPU * gpus) if gpus else cpus or 1
    return SimulationResources(
        num_actors=num_actors or max(1, min(limit, num_clients)),
        num_gpus=gpus,
        num_nodes=max(2, min(num_clients, MAX_NODES)),
    )
