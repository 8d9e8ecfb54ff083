"""Parameters of a group's own, near the global ones, and where they are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from task.features import GroupData
from task.predictor import PreferencePredictor
from task.round_store import Kept, RoundStore
from task.training import LocalUpdate, train_client

DITTO, MR_MTL = "ditto", "mr-mtl"

CLIENTS_FOLDER = "clients"
"""Below a simulation's run directory: what its clients keep."""

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Personal:
    """A group's own parameters.

    Attributes:
        parameters: by name.
        before: as they were before the last round; None: that was the first one.
        server_round: the round in which they were trained last.
    """

    parameters: Parameters
    before: Parameters | None
    server_round: int


class PersonalStore(RoundStore):
    """One safetensors file for each group, in a folder that belongs to the client.

    Args:
        folder: the client's folder for one run; created when something is written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, suffix="", without="starts from the global parameters")

    def load(self, group: str) -> Personal | None:
        """Return a group's own parameters; None: it has none yet.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        kept = self.read(group)
        return Personal(kept.now, kept.before, kept.server_round) if kept else None

    def save(self, group: str, personal: Personal) -> None:
        """Write a group's own parameters, whole or not at all."""
        self.write(group, Kept(personal.parameters, personal.before, personal.server_round))


def train_personal(
    way: str,
    predictor: PreferencePredictor,
    parameters: Parameters,
    data: GroupData,
    store: PersonalStore,
    *,
    proximal_mu: float,
    server_round: int,
    **training: Any,
) -> LocalUpdate:
    """Train a group's own parameters one round further, keep them, and return what is to be sent.

    `ditto` sends the global parameters trained on (arXiv 2012.04221, algorithm 1); `mr-mtl` sends
    the group's own (arXiv 2206.07902, algorithm 1). A group that has none of its own starts from
    the global parameters. Asked again for a round that it has trained, it starts from where it
    stood before, not from what came of that.

    Args:
        way: `ditto` or `mr-mtl`.
        predictor: the module to compute with.
        parameters: the global ones.
        data: the group's data.
        store: where its own are kept.
        proximal_mu: how strongly they are drawn to the global ones.
        server_round: the federated round, from 1.
        **training: see `task.training.train_client`.

    Raises:
        ValueError: there is no such way.
    """
    if way not in (DITTO, MR_MTL):
        raise ValueError(f"personal = {way!r}: expected {DITTO!r} or {MR_MTL!r}")
    training |= {"server_round": server_round}
    before = store.start_of(data.group, server_round)
    own = train_client(
        predictor,
        before or parameters,
        data,
        anchor=parameters,
        proximal_mu=proximal_mu,
        **training,
    )
    store.save(data.group, Personal(own.parameters, before, server_round))
    return own if way == MR_MTL else train_client(predictor, parameters, data, **training)
