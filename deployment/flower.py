"""Flower's own commands: the environment they run in, and what they answer."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.errors import DeploymentError, UserError
from task.paths import project_folder

STATUS_SECONDS = 30.0
POLL_SECONDS = 2.0
ASK_SECONDS = 120.0
"""For one command of Flower's, which takes some seconds on a slow machine."""
UNKNOWN = "unknown"
COMPLETED = "finished:completed"


@dataclass(frozen=True)
class Connection:
    """How `flwr` finds a SuperLink.

    Attributes:
        name: of the connection in Flower's `config.toml`.
        home: FLWR_HOME, the folder of that file.
    """

    name: str
    home: Path


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment, changed for Flower's commands.

    They ask nobody for updates, send nobody telemetry, install nothing, and find each other next
    to this Python, whether its environment is activated or not.

    Args:
        home: FLWR_HOME: Flower's own files.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {
        "PATH": path,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
    }


def program(name: str) -> str:
    """Return the path of one of Flower's commands: the one next to this Python."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def ask(connection: Connection, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `flwr <arguments> --format json` and return what it answers.

    Raises:
        DeploymentError: it fails, in Flower's words, or gives no answer.
    """
    try:
        done = subprocess.run(
            [program("flwr"), *arguments, "--format", "json"],
            env=environment(connection.home),
            cwd=connection.home,  # a folder of the connection's name would be taken for an app
            capture_output=True,
            text=True,
            check=False,
            timeout=ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DeploymentError(
            f"`flwr {' '.join(arguments)}` had no answer for {ASK_SECONDS:.0f} s: the SuperLink "
            "hangs. Restart it."
        ) from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error-message": f"{done.stdout}{done.stderr}".strip()}
    if not answer.get("success"):
        said = " ".join(str(answer.get("error-message", "no reason")).split())
        raise DeploymentError(f"`flwr {' '.join(arguments)}` failed: {said}")
    return answer


def run_status(
    connection: Connection,
    run_id: str = "",
    *,
    patience: float | None = STATUS_SECONDS,
    away: float = 0.0,
) -> str:
    """Return how a run ended, or how it stands when patience has run out.

    `flwr run` exits with 0 even when the ServerApp raised; `flwr ls` knows better, in a moment.

    Args:
        connection: the way to the SuperLink.
        run_id: by default that of the last run.
        patience: seconds to wait for the end. None: however long it takes.
        away: seconds for which the SuperLink may answer nothing before the status is `UNKNOWN`.
    """
    arguments = ["ls", connection.name] + (["--run-id", run_id] if run_id else [])
    deadline = time.monotonic() + (math.inf if patience is None else patience)
    answered = time.monotonic()
    while True:
        try:
            status = str(ask(connection, arguments)["runs"][0]["status"])
            answered = time.monotonic()
        except LookupError:
            return f"{UNKNOWN}: the SuperLink does not know the run"
        except DeploymentError as error:
            status = f"{UNKNOWN}: {error}"
            if time.monotonic() - answered >= away:
                return status
        if status.startswith("finished") or time.monotonic() >= deadline:
            return status
        time.sleep(POLL_SECONDS)


def app_folder() -> Path:
    """Return the folder that holds this app's pyproject.toml, which `flwr run` packs.

    Raises:
        UserError: there is none.
    """
    folder = project_folder()
    if not (folder / "pyproject.toml").is_file():
        raise UserError(
            f"{folder} is not the project's source folder, which `flwr run` packs. Install from a "
            "clone (pip install -e .), or set PLURALLLM_PROJECT to it."
        )
    return folder
