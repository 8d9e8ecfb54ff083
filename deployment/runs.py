"""Runs on a deployment: started at its SuperLink, followed, and remembered with their directory.

A run belongs to the SuperLink, not to the command that started it: Flower knows its id and status,
and `runs.jsonl` says where its files are, which Flower does not keep.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from deployment import flower
from deployment.coordinator import CONNECTION, Coordinator
from deployment.registration import connection
from task.errors import DeploymentError
from task.settings import Scalar

AWAY_SECONDS = 300.0
"""A SuperLink that was killed is back long before."""


@dataclass(frozen=True)
class StartedRun:
    """A run that was started here.

    Attributes:
        run_id: Flower's.
        directory: where the run is written.
        started: when, in UTC.
    """

    run_id: str
    directory: str
    started: str


def start_run(
    coordinator: Coordinator, settings: Mapping[str, Scalar], directory: Path
) -> StartedRun:
    """Hand a run to the SuperLink, and remember where it is written.

    Raises:
        DeploymentError: the SuperLink does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        file.write_text(tomli_w.dumps(settings))
        arguments = ["run", str(flower.app_folder()), CONNECTION, "--run-config", str(file)]
        answer = flower.ask(connection(coordinator), arguments)
    started = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    run = StartedRun(str(answer["run-id"]), str(directory), started)
    try:
        with coordinator.run_list.open("a+") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
            torn = stream.read() not in ("", "\n")  # by a process that was killed, or a full disk
            stream.write("\n" * torn + json.dumps(asdict(run)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise DeploymentError(
            f"Run {run.run_id} was started, and is written to {directory}, but "
            f"{coordinator.run_list} cannot be written ({error.strerror}): `deploy status` does "
            "not show it."
        ) from None
    return run


def started_runs(coordinator: Coordinator) -> list[StartedRun]:
    """Return the runs that were started here, the oldest first, but lines that were torn."""
    if not coordinator.run_list.is_file():
        return []
    lines = coordinator.run_list.read_text(errors="replace").splitlines()
    return [run for line in lines if (run := _parse(line))]


def follow_run(coordinator: Coordinator, run: StartedRun) -> str:
    """Print what a run prints until it ends, and return Flower's status of it.

    Flower's stream may end before the run does, when the SuperLink is away for a moment; after
    `AWAY_SECONDS` without an answer the status is `flower.UNKNOWN`.
    """
    way = connection(coordinator)
    subprocess.run(
        [flower.program("flwr"), "log", run.run_id, CONNECTION, "--stream"],
        env=flower.environment(way.home),
        cwd=way.home,
        check=False,
    )
    return flower.run_status(way, run.run_id, patience=None, away=AWAY_SECONDS)


def _parse(line: str) -> StartedRun | None:
    try:
        return StartedRun(**json.loads(line))
    except (ValueError, TypeError):
        return None
