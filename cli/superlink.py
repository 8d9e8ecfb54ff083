"""A SuperLink of our own: its own port, home and processes, all gone afterwards."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployment.flower import environment as flower_environment
from deployment.flower import free_port, program
from deployment.processes import stop_family
from task.errors import UserError

CONNECTION = "pluralllm"
START_SECONDS = 60


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
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = flower_environment(home)
    command = [
        program("flower-superlink"),
        "--insecure",
        "--simulation",
        "--disable-runtime-dependency-installation",
        "--control-api-address",
        f"127.0.0.1:{free_port()}",
        "--port",
        str(port),
        "--log-file",
        str(home / "superlink.log"),
    ]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_up(process, port, home)
        yield LocalSuperLink(environment, home)
    finally:
        stop_family("FLWR_HOME", str(home))
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


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
