"""The floor: a round's local training in bare loops, without any framework around it.

One process per core with one thread each (or one on a GPU), clients dealt out like cards, nothing
sent or averaged. Called by engines.py.

    python benchmarks/floor.py --rounds 3 data.synthetic-groups=130 data.num-held-out-groups=2
"""

import argparse
import multiprocessing
import os
import statistics
import time
from functools import reduce
from multiprocessing.synchronize import Barrier
from operator import add

import torch

from task.config import RunConfig, parse_override
from task.features import feature_sums, load_group, load_roles
from task.predictor import PreferencePredictor
from task.training import train_client


def train_share(
    config: RunConfig, device: str, rank: int, ranks: int, rounds: int, barrier: Barrier
) -> None:
    """Train every `ranks`-th client in each round; all processes start a round together."""
    torch.set_num_threads(1)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    clients = [load_group(config, group) for group, role in roles.items() if role == "train"]
    sums = reduce(add, (feature_sums(data) for data in clients))
    predictor = PreferencePredictor.initial(config.predictor, sums, {}, config.run.seed)
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    predictor.to(device)
    for server_round in range(1, rounds + 1):
        barrier.wait()
        started = time.perf_counter()
        for data in clients[rank::ranks]:
            train_client(
                predictor,
                parameters,
                data,
                config.train,
                learning_rates=config.train.learning_rates(server_round),
                seed=config.run.seed,
                server_round=server_round,
            )
        barrier.wait()
        if rank == 0:
            print(time.perf_counter() - started, flush=True)


def main() -> None:
    """Print the seconds of each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("settings", nargs="*", help="key=value")
    arguments = parser.parse_args()
    config = RunConfig.from_flat(dict(parse_override(text) for text in arguments.settings))
    load_roles(config.data, config.evaluation, config.run.seed)
    ranks = 1 if arguments.device == "cuda" else os.cpu_count() or 1
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(ranks)
    processes = [
        spawn.Process(
            target=train_share,
            args=(config, arguments.device, rank, ranks, arguments.rounds, barrier),
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


def median_after_first(output: str) -> float:
    """Return the median of the printed rounds without the first, which warms up."""
    seconds = [float(line) for line in output.split()]
    return statistics.median(seconds[1:] or seconds)


if __name__ == "__main__":
    main()
