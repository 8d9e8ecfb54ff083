"""The checkpoints of a run: one after every few rounds, the newest kept."""

import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy

from server_app.announcing import announce
from server_app.checkpointing.checkpoint_files import DamagedError, read_state, write_state
from server_app.checkpointing.plain_state import Packed, pack, unpack
from server_app.strategies.personal import KeepsPersonal
from task.config import RunConfig
from task.errors import RunDirectoryError
from task.operations_config import CheckpointConfig
from task.settings import require

FOLDER = "checkpoints"
TOP_K = "top-k"
_RUN = "run"
_KEY = "key"


@dataclass(frozen=True)
class Checkpoint:
    """All that continues a run after a round.

    Attributes:
        server_round: the last finished round; 0: none yet.
        state: plain data.
    """

    server_round: int
    state: dict[str, Any]


def require_every_round(strategy: Strategy, config: RunConfig) -> None:
    """Raise a `ConfigError` where clients would have to repeat more rounds than they can."""
    every = config.checkpoint.every
    for keeps, what in (
        (isinstance(strategy, KeepsPersonal), f"strategy.name = {config.strategy.name!r}"),
        (config.compression.name == TOP_K, f"compression.name = {TOP_K!r}"),
    ):
        if keeps:
            expected = f"0 or 1 with {what}: clients can repeat their last round and no other"
            require(every <= 1, "checkpoint.every", every, expected)


class Checkpoints:
    """Writes a run's checkpoints below its run directory, and reads them.

    What a round leaves is kept in memory until its checkpoint is due; `flush` writes it at once,
    which whoever ends the run does, so that no finished round is lost.

    Args:
        run: the run directory.
        config: how often, and how many are kept.
        key: of a new run; that of a run which goes on is read.

    Attributes:
        key: of the run: every checkpoint says whose it is.
    """

    def __init__(self, run: Path, config: CheckpointConfig, key: str = "") -> None:
        self.key = key
        self._folder = run / FOLDER
        self._config = config
        self._pending: tuple[int, Packed] | None = None

    @property
    def enabled(self) -> bool:
        """Whether the run makes any."""
        return self._config.every > 0

    def add(self, checkpoint: Checkpoint) -> None:
        """Take in what a round leaves, and write it if it is due.

        Raises:
            RunDirectoryError: it cannot be written.
            NotPlainError: the state is not plain.
        """
        self._pending = checkpoint.server_round, pack({**checkpoint.state, _KEY: self.key})
        if checkpoint.server_round % self._config.every == 0:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory, if it is not written yet.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        pending = self._pending
        if pending is None:
            return
        server_round, packed = pending
        write_state(self._folder / f"round-{server_round:06d}", packed)
        if self._pending is pending:
            self._pending = None
        for older in self._rounds()[: -self._config.keep]:
            shutil.rmtree(older, ignore_errors=True)  # one that stays does no harm

    def remove(self) -> None:
        """Remove what was written after rounds."""
        for folder in self._folder.glob("*round-*"):
            shutil.rmtree(folder)

    def begin(self) -> None:
        """Make room for a new run: take out what one that finished no round has left.

        Raises:
            RunDirectoryError: it cannot be removed.
        """
        if not self._folder.exists():
            return
        try:
            shutil.rmtree(self._folder)
        except OSError as error:
            raise RunDirectoryError(
                f"{self._folder} was left by another run and cannot be removed "
                f"({error.strerror or error}). Choose another run.directory, or remove it."
            ) from error

    def write_run_record(self, record: dict[str, Any]) -> None:
        """Write what does not change during the run, once for all checkpoints.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        write_state(self._folder / _RUN, pack({**record, _KEY: self.key}))

    def resume(self) -> Checkpoint:
        """Take over the run's key; return its newest checkpoint, see `latest`.

        Raises:
            RunDirectoryError: there is none, its record is damaged, or they are of two runs.
        """
        checkpoint, record = self.latest(), self.run_record()
        self.key = record[_KEY]
        if checkpoint.state.get(_KEY) != self.key:
            raise RunDirectoryError(
                f"{self._folder}: round {checkpoint.server_round} is of another run than the "
                f"record of its clients ({_RUN}). Restore the folder as it was, or start the run "
                "anew."
            )
        return checkpoint

    def run_record(self) -> dict[str, Any]:
        """Return what `write_run_record` wrote.

        Raises:
            RunDirectoryError: it is missing or damaged.
        """
        folder = self._folder / _RUN
        try:
            record: dict[str, Any] = unpack(read_state(folder))
        except DamagedError as damage:
            raise RunDirectoryError(
                f"{folder} is damaged ({damage}): it says which clients the run has. Restore it, "
                "or start the run anew."
            ) from damage
        return record

    def latest(self) -> Checkpoint:
        """Return the newest checkpoint that is whole, and say which ones are not.

        Raises:
            RunDirectoryError: there is none.
        """
        damaged = []
        for folder in reversed(self._rounds()):
            try:
                state = unpack(read_state(folder))
            except (DamagedError, ValueError, LookupError) as damage:
                text = f"Checkpoint {folder} is damaged ({damage}); taking an older one"
                announce("checkpoint-damaged", text, {"checkpoint": str(folder)}, "warning")
                damaged.append(folder)
                continue
            for left in self._folder.glob(".*"):  # by a kill, half written
                shutil.rmtree(left, ignore_errors=True)
            for each in damaged:  # or it would be taken for the round's new one
                each.rename(self._damaged_name(each))
            return Checkpoint(int(state["round"]), state)
        run = self._folder.parent
        found = sorted(each.name for each in run.iterdir()) if run.is_dir() else []
        there = f"it holds {', '.join(found)}" if found else "there is nothing"
        whole = "no checkpoint that is whole" if damaged else "no checkpoint"
        raise RunDirectoryError(
            f"run.resume = {str(run)!r} has {whole} ({there}). Expected the directory of a run "
            "that has begun its rounds with checkpoint.every > 0. Start the run anew."
        )

    def _damaged_name(self, folder: Path) -> Path:
        names = (self._folder / f"damaged-{folder.name}-{number}" for number in count(1))
        return next(name for name in names if not name.exists())

    def _rounds(self) -> list[Path]:
        return sorted(self._folder.glob("round-*"))
