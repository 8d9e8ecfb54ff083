"""A SuperLink of our own: its own port, home and processes, all gone afterwards."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from task.errors import UserError

CONNECTION = "pluralllm"
START_SECONDS = 60
STOP_SECONDS = 15
SIMULATION = "flwr-simulation"  # the program that runs ServerApp and clients


@dataclass(frozen=True)
class LocalSuperLink:
    """A running SuperLink in simulation mode.

    Attributes:
        environment: for `flwr` commands that talk to it, by the connection `CONNECTION`.
        home: its FLWR_HOME; holds its log.
    """

    environment: dict[str, str]
    home: Path


@contextmanager
def local_superlink() -> Iterator[LocalSuperLink]:
    """Start a SuperLink, and stop it and all it started.

    `flwr run` alone would leave its SuperLink running, frozen in the environment and working
    directory of whoever ran it first, and install the app's dependencies anew for every run.

    Raises:
        UserError: it does not start.
    """
    home = Path(tempfile.mkdtemp(prefix="pluralllm-flwr-"))
    port = _free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        str(Path(sys.executable).with_name("flower-superlink")),
        "--insecure",
        "--simulation",
        "--disable-runtime-dependency-installation",
        "--control-api-address",
        f"127.0.0.1:{_free_port()}",
        "--port",
        str(port),
        "--log-file",
        str(home / "superlink.log"),
    ]
    # `flwr` and what it starts are found next to this Python, activated environment or not.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_up(process, port, home)
        yield LocalSuperLink(environment, home)
    finally:
        _stop(process, home)
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(process: subprocess.Popen[bytes], port: int, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    log = home / "superlink.log"
    tail = log.read_text()[-2000:] if log.exists() else "(no log)"
    raise UserError(f"The local SuperLink did not start. The end of its log:\n{tail}")


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """End the SuperLink and all it started: executors, the simulation, Ray.

    They are found by their FLWR_HOME, which is theirs alone (some detach themselves, and none is a
    child any more if the SuperLink has died), and below those (Ray's overwrite their environment).
    A simulation that still runs is told first, and by SIGINT: it then saves what is finished.
    """
    members = [other for other in psutil.process_iter() if _flwr_home(other) == str(home)]
    running = [member for member in members if SIMULATION in _command(member)]
    for member in running:
        _signal(partial(member.send_signal, signal.SIGINT))
    psutil.wait_procs(running, timeout=STOP_SECONDS)
    family = {process for member in members for process in (member, *_descendants(member))}
    for member in family:
        _signal(member.terminate)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in alive:
        _signal(member.kill)
    process.wait()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # ended
        return ""


def _flwr_home(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("FLWR_HOME")
    except (psutil.Error, OSError):  # ended, or somebody else's
        return None


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
