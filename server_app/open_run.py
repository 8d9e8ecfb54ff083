"""A run's directory from start to end: made new, or continued from its last checkpoint."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from server_app.checkpointing.checkpoints import Checkpoint, Checkpoints
from server_app.checkpointing.population_record import as_recorded, population_record
from server_app.nodes.discovery import Population
from server_app.run_directory import RunDirectory, read_json, require_unused
from server_app.stopping import called_when_stopped
from task.config import RunConfig, read_toml
from task.errors import ConfigError, RunDirectoryError
from task.paths import default_run_directory, project_folder
from task.roles import Role
from task.settings import Scalar

RESUME_FILE = "resume.toml"


@dataclass(frozen=True)
class OpenRun:
    """A run that this process makes.

    Attributes:
        directory: where it is written.
        checkpoints: its checkpoints.
        key: under which clients on machines of their own keep what they know of this run: random,
            so that no two runs share it.
        resumed: where it continues; None: it is a new run.
    """

    directory: RunDirectory
    checkpoints: Checkpoints
    key: str
    resumed: Checkpoint | None = None

    @property
    def began(self) -> dict[str, Role] | None:
        """The groups that a resumed run began with, and their roles; None: it is a new run."""
        if not self.resumed:
            return None
        clients = self.checkpoints.run_record()["population"]["clients"]
        return {client["group"]: client["role"] for client in clients}

    def settle(self, population: Population, *, all_there: bool = True) -> Population:
        """Return the run's clients: those that it began with, or these, which are written down.

        Args:
            population: who is there.
            all_there: whether every client of a resumed run must be.

        Raises:
            PopulationError: clients of a resumed run are missing, or not as they were.
            EncoderError: they use another encoder.
            RunDirectoryError: the record of them is damaged, or cannot be written.
        """
        if self.resumed:
            record = self.checkpoints.run_record()["population"]
            return as_recorded(population, record, all_there=all_there)
        if self.checkpoints.enabled:
            self.checkpoints.write_run_record({"population": population_record(population)})
        return population


@contextmanager
def open_run(config: RunConfig) -> Iterator[OpenRun]:
    """Make or reopen a run's directory, keep it to this process, and record how the block ends.

    Args:
        config: the run's settings, with absolute paths.

    Raises:
        ConfigError: a run cannot be continued with other settings.
        RunDirectoryError: the directory holds another run, none, or one that is not interrupted.
    """
    if config.run.resume:
        require_interrupted(config)
        directory = RunDirectory(Path(config.run.resume))
    else:
        path = new_run_path(config, datetime.now())
        require_unused(path)
        directory = RunDirectory(path)
    checkpoints = Checkpoints(directory.path, config.checkpoint, secrets.token_hex(8))
    with directory.locked():
        resumed = None
        if config.run.resume:  # an error leaves everything as it was
            require_interrupted(config)  # it may have ended before this process had the lock
            resumed = checkpoints.resume()
            directory.continue_after(resumed.server_round)
        else:
            directory = RunDirectory.create(directory.path, config)
            checkpoints.begin()
            if checkpoints.enabled:
                directory.write_config(RESUME_FILE, resume_settings(directory.path))
        stopped = partial(directory.write_stopped, "by a signal, or by flwr stop")
        with directory.recording_status(), called_when_stopped(checkpoints.flush, stopped):
            yield OpenRun(directory, checkpoints, checkpoints.key, resumed)
            if config.privacy.num_bands > 1:  # they hold noise, which nobody may take off again
                checkpoints.remove()


def new_run_path(config: RunConfig, now: datetime) -> Path:
    """Return where a new run is written, which by default is named after the time."""
    if config.run.directory:
        return Path(config.run.directory)
    return project_folder() / default_run_directory(config, now)


def resume_settings(run: Path) -> dict[str, Scalar]:
    """Return the settings that continue a run.

    Raises:
        RunDirectoryError: the directory holds no run.
    """
    file = run / "config.toml"
    if not file.is_file():
        there = sorted(each.name for each in run.iterdir()) if run.is_dir() else []
        found = f"it holds {', '.join(there)}" if there else "there is nothing"
        raise RunDirectoryError(
            f"run.resume = {str(run)!r} is no run directory ({found}). Expected one with "
            "config.toml."
        )
    settings = read_toml(file) | {"run.resume": str(run)}
    if settings.get("run.directory"):
        settings["run.directory"] = str(run)  # it may have been moved
    return settings


def require_interrupted(config: RunConfig) -> None:
    """Check what can be checked of a run that is to be continued, and change nothing.

    Args:
        config: with `run.resume`.

    Raises:
        ConfigError: the settings are not the run's, or name another directory too.
        RunDirectoryError: there is no run, or it has completed.
    """
    run, directory = Path(config.run.resume), config.run.directory
    if directory and Path(directory).resolve() != run.resolve():
        raise ConfigError(
            f"run.directory = {directory!r} and run.resume = {str(run)!r}: a run is continued in "
            "its own directory. Leave run.directory out."
        )
    began = RunConfig.from_flat(resume_settings(run))
    _require_same(began.result_settings(), config.result_settings())
    status = read_json(run / "status.json")
    if status["status"] == "completed":
        raise RunDirectoryError(
            f"run.resume = {str(run)!r} has completed: there is nothing to continue. For more "
            "rounds start a new run with a larger train.num-rounds."
        )


def _require_same(began: Mapping[str, Scalar], given: Mapping[str, Scalar]) -> None:
    other = [key for key in began if began[key] != given[key]]
    if other:
        listed = "; ".join(
            f"{key} = {json.dumps(given[key])}, the run's is {json.dumps(began[key])}"
            for key in other
        )
        raise ConfigError(
            f"run.resume: other settings than when the run began: {listed}. Expected the same; "
            "only engine.*, log.*, checkpoint.*, nodes.* and places of files may differ."
        )
