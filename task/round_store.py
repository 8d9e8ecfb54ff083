"""What a client keeps of each group from round to round, in files of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from task.errors import RunDirectoryError
from task.files import write_whole
from task.paths import file_stem

_NOW, _BEFORE = "now", "before"  # first parts of the names in a file


@dataclass(frozen=True)
class Kept:
    """Tensors of a group.

    Attributes:
        now: by name, as they are after the last round.
        before: as they were before it; None: there were none.
        server_round: that round.
    """

    now: Mapping[str, Tensor]
    before: Mapping[str, Tensor] | None
    server_round: int


class RoundStore:
    """One safetensors file for each group, in a folder that belongs to the client.

    Args:
        folder: the client's folder for one run; created when something is written.
        suffix: of the files' names.
        without: what happens to a group whose file is removed, for the error of a damaged one.
    """

    def __init__(self, folder: Path, suffix: str, without: str) -> None:
        self._folder = folder
        self._suffix = suffix
        self._without = without

    def read(self, group: str) -> Kept | None:
        """Return what is kept of a group; None: nothing yet.

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
                server_round = int(tensors.metadata()["round"])
                return Kept(of_state[_NOW], of_state[_BEFORE] or None, server_round)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{file} is damaged ({error}). Restore it, or remove it: the group then "
                f"{self._without}."
            ) from error

    def start_of(self, group: str, server_round: int) -> Mapping[str, Tensor] | None:
        """Return what a group starts a round from; None: from nothing.

        Asked for the last round again, it starts from what stood before that. A run that has lost
        a checkpoint asks for earlier ones: that start is the oldest there is, which is said.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        kept = self.read(group)
        if kept is None or kept.server_round < server_round:
            return kept.now if kept else None
        if kept.server_round > server_round:
            print(
                f"{group}: asked for round {server_round} after round {kept.server_round}; it "
                f"starts from what stood before round {kept.server_round}, the oldest that is kept",
                flush=True,
            )
        return kept.before

    def write(self, group: str, kept: Kept) -> None:
        """Replace what is kept of a group, whole or not at all, on disk when this returns."""
        tensors = {
            f"{state}/{name}": tensor.clone()
            for state, named in ((_NOW, kept.now), (_BEFORE, kept.before))
            for name, tensor in (named or {}).items()
        }
        content = save(tensors, {"round": str(kept.server_round)})
        write_whole(self.file(group), content)

    def file(self, group: str) -> Path:
        """Return where a group's tensors are."""
        return self._folder / f"{file_stem(group)}{self._suffix}.safetensors"
