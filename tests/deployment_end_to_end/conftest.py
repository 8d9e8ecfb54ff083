"""One deployment for all tests here: real processes, made by the documented commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.testbed.app_copy import copy_faulty_app
from benchmarks.testbed.deployment import Deployment
from benchmarks.testbed.network import Network, open_network
from benchmarks.testbed.parties import Split, split_survey
from benchmarks.testbed.settings import SMALL

NUM_ROUNDS = 4
RUN = {
    **SMALL,
    "train.num-rounds": NUM_ROUNDS,
    "train.round-timeout": 180.0,
    "evaluation.every": NUM_ROUNDS,
    "nodes.patience": 300.0,
}
SURVEY = {
    "data.synthetic-groups": 3,
    "data.synthetic-questions": 120,
    "data.synthetic-answered": 60,
}


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    with open_network() as opened:
        yield opened


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployment")


@pytest.fixture(scope="session")
def split(folder: Path) -> Split:
    return split_survey(SURVEY, folder / "data", num_train=2, num_held_out=1)


@pytest.fixture(scope="session")
def deployment(folder: Path, network: Network, split: Split) -> Iterator[Deployment]:
    # Of an app whose clients misbehave when they are asked to, and else are the real ones.
    made = Deployment(folder / "deployment", network, split, copy_faulty_app(folder / "app"))
    try:
        made.make()
        for party in split.parties:  # [node] is the last table
            with (made.party_folder(party.name) / "supernode.toml").open("a") as settings:
                settings.write("allow-scoring = true\n")
        yield made
    finally:
        made.close()
