"""Parameters of a group's own, near the global ones, and where they are kept."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from task.errors import RunDirectoryError
from task.features import GroupData
from task.paths import file_stem
from task.predictor import PreferencePredictor
from task.training import LocalUpdate, train_client

DITTO, MR_MTL = "ditto", "mr-mtl"

CLIENTS_FOLDER = "clients"
"""Below a simulation's run directory: what its clients keep."""

Parameters = Mapping[str, Tensor]

_NOW, _BEFORE = "now", "before"  # first parts of the names in a file


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


class PersonalStore:
    """One safetensors file for each group, in a folder that belongs to the client.

    Args:
        folder: the client's folder for one run; created when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, group: str) -> Personal | None:
        """Return a group's own parameters; None: it has none yet.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        file = self.file(group)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as tensors:
                of_state: dict[str, dict[str, Tensor]] = {_NOW: {}, _BEFORE: {}}
                for key in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    state, name = key.split("/", 1)
                    of_state[state][name] = tensors.get_tensor(key)
                return Personal(
                    of_state[_NOW], of_state[_BEFORE] or None, int(tensors.metadata()["round"])
                )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{file} is damaged ({error}). Restore it, or remove it: the group then starts "
                "from the global parameters."
            ) from error

    def save(self, group: str, personal: Personal) -> None:
        """Write a group's own parameters, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self.file(group)
        partial_file = file.with_name(f".{os.getpid()}-{file.name}")
        tensors = {
            f"{state}/{name}": tensor.clone()
            for state, parameters in ((_NOW, personal.parameters), (_BEFORE, personal.before))
            for name, tensor in (parameters or {}).items()
        }
        save_file(tensors, partial_file, {"round": str(personal.server_round)})
        partial_file.replace(file)

    def file(self, group: str) -> Path:
        """Return where a group's parameters are."""
        return self._folder / f"{file_stem(group)}.safetensors"


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
    kept = store.load(data.group)
    before = kept.parameters if kept else None
    if kept and kept.server_round >= server_round:
        before = kept.before
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
