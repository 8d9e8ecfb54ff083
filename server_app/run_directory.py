"""The run directory: everything a run leaves, each file written whole or not at all."""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import tomli_w
from filelock import FileLock, Timeout

from server_app.announcing import announce
from server_app.checkpointing.checkpoints import FOLDER
from server_app.environment import environment
from task.config import RunConfig
from task.errors import RunDirectoryError
from task.files import sync
from task.predictor import PreferencePredictor
from task.settings import Scalar

_FULL_OR_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # what a disk may be
_attempts = count()  # a signal's handler may write while the thread that it interrupts does


class RunDirectory:
    """Files of one run.

    - `config.toml`: all settings; `pluralllm run` takes it as it is.
    - `resume.toml`: the same, to continue an interrupted run under any engine.
    - `environment.json`: versions and hardware.
    - `status.json`: `running`, `completed`, or `failed` or `stopped` with the reason; how often
      the run was continued.
    - `metrics.jsonl`: one line per round.
    - `summary.json`, `groups.parquet`: final scores, per role and per group; where clients are
      users, `users.parquet` has each of them.
    - `predictor-final/`, `predictor-best/`: loadable by `PreferencePredictor.from_pretrained`.
    - `plots/`: figures.
    - `checkpoints/`: see `server_app.checkpointing.checkpoints`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._resumed = 0
        self._stopped = False

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """Create the directory and write what is known before the run.

        Raises:
            RunDirectoryError: it holds a run already, or cannot be written.
        """
        require_unused(path)
        directory = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            directory.write_status("running")
        except OSError as error:
            raise RunDirectoryError(f"run.directory = {str(path)!r}: {error}.") from error
        directory.write_config("config.toml", config.to_flat())
        directory.write_json("environment.json", environment())
        return directory

    def continue_after(self, server_round: int) -> None:
        """Take out what an interrupted run wrote after a round, and say that it runs again."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        kept = "".join(line for line in lines if _is_of_finished(line, server_round))
        self._write("metrics.jsonl", lambda partial: partial.write_text(kept))
        self._resumed = int(read_json(self.path / "status.json").get("resumed", 0)) + 1
        self.write_status("running")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the directory to this process. If the process dies, so does its lock.

        Raises:
            RunDirectoryError: another process has it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"run.directory = {str(self.path)!r}: {error}.") from error
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirectoryError(
                f"{self.path} belongs to a run that is still going on. Wait for its end, or stop "
                "its process first."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_status(self, status: str, reason: str = "") -> None:
        """Say how the run stands."""
        self.write_json(
            "status.json", {"status": status, "reason": reason, "resumed": self._resumed}
        )

    def write_stopped(self, reason: str) -> None:
        """Say that the run was told to stop, whatever comes of that in its own thread."""
        self._stopped = True
        self.write_status("stopped", reason)
        announce("run-stopped", fields={"reason": reason}, level="warning")

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Write how the block ended: `completed`, or `stopped` or `failed` with the reason.

        Raises:
            RunDirectoryError: in place of an error that says that the disk is full or broken.
        """
        try:
            yield
        except BaseException as error:
            self._write_end(error)
            if isinstance(error, OSError) and error.errno in _FULL_OR_BROKEN:
                raise RunDirectoryError(
                    f"{error.filename or self.path}: {error.strerror}. The run stops; what was "
                    "saved before is whole. Make room and continue with run.resume."
                ) from error
            raise
        if not self._stopped:
            self.write_status("completed")

    def _write_end(self, error: BaseException) -> None:
        if self._stopped:
            return
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        reason = _signal_name(error) if stopped else str(error) or type(error).__name__
        level: Literal["warning", "error"] = "warning" if stopped else "error"
        announce("run-stopped" if stopped else "run-failed", "", {"reason": reason}, level)
        try:
            self.write_status("stopped" if stopped else "failed", reason)
        except OSError as second:  # the first error is the one to be read
            print(f"{self.path / 'status.json'} cannot be written: {second}", file=sys.stderr)

    def write_config(self, name: str, settings: Mapping[str, Scalar]) -> None:
        """Write settings as TOML, in sections."""
        nested: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            section, name_of_key = key.split(".", 1)
            nested.setdefault(section, {})[name_of_key] = value
        self._write(name, lambda file: file.write_text(tomli_w.dumps(nested)))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        self._write(name, lambda file: file.write_text(text))

    def write_groups(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the per-group table."""
        self._write_table("groups.parquet", "group", groups)

    def write_users(self, users: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the table of users that are clients, by their names GROUP/USER."""
        self._write_table("users.parquet", "user", users)

    def write_predictor(self, name: str, predictor: PreferencePredictor) -> None:
        """Write a predictor as `predictor-<name>/`, replacing the one before."""

        def save(folder: Path) -> None:
            predictor.save_pretrained(folder)
            # huggingface_hub adds an empty card that says the model had been pushed to the hub.
            (folder / "README.md").unlink(missing_ok=True)

        self._write(f"predictor-{name}", save)

    def write_plot(self, name: str, save: Callable[[Path], Any]) -> None:
        """Write a figure below `plots/`."""
        (self.path / "plots").mkdir(exist_ok=True)
        self._write(f"plots/{name}", save)

    def _write_table(self, name: str, key: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        import pandas as pd  # a third of a second that a run need not wait for at its start

        frame = pd.DataFrame([{key: each, **entry} for each, entry in rows.items()])
        self._write(name, lambda file: frame.to_parquet(file, index=False))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write beside the target, then move it there."""
        target = self.path / name
        partial = target.with_name(f".{os.getpid()}-{next(_attempts)}-{target.name}")
        try:
            write(partial)
            for file in partial.iterdir() if partial.is_dir() else (partial,):
                sync(file)  # or a power cut could leave an empty one under the name
        except OSError:
            _remove(partial)
            raise
        if target.is_dir():  # file by file, so that there is a whole predictor at every moment
            for file in partial.iterdir():
                file.replace(target / file.name)
            partial.rmdir()
        else:
            partial.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_of_finished(line: str, server_round: int) -> bool:
    """Return whether a line of metrics is whole, of a round that is finished, and not of an end."""
    if not line.endswith("\n"):
        return False  # a kill has cut it off
    entry = json.loads(line)
    return entry["round"] <= server_round and "stopped" not in entry


def _signal_name(error: BaseException) -> str:
    """Return which signal ended the process, as its exit status tells."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT.name
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(code, int) and code - 128 in signal.Signals.__members__.values():
        return signal.Signals(code - 128).name
    return f"exit status {code}"


def require_unused(path: Path) -> None:
    """Raise a `RunDirectoryError` when a directory holds a run that has saved anything."""
    file = path / "status.json"
    running = file.exists() and json.loads(file.read_text())["status"] == "running"
    saved = (path / "metrics.jsonl").exists() or any((path / FOLDER).glob("*round-*"))
    if running or saved:
        raise RunDirectoryError(
            f"run.directory = {str(path)!r} holds a run already. Choose another directory, or move "
            "that one away: a run never overwrites what another has saved."
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run or a comparison.

    Raises:
        RunDirectoryError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise RunDirectoryError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{file} is damaged and cannot be read as JSON ({error}). Restore it, or move its "
            "folder away and run again."
        ) from error
    return content


def recorded_failure(path: Path) -> str:
    """Return why the run in a directory failed, if it could say so."""
    file = path / "status.json"
    return str(json.loads(file.read_text())["reason"]) if file.exists() else ""
