"""A real SuperLink with its gateway and, of one party, a real SuperNode."""

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from ssl import create_default_context

import psutil
import pytest

from deployment.coordinator import Coordinator
from deployment.status import deployment_status
from tests.cli.test_check_data import write_survey

PATIENCE = 90.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from cli.main import main; main()", "deploy", *arguments]


def start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(
            command(*arguments),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def of_folder(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("FLWR_HOME", ""):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A deployment of one party, which has its key and its survey."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    folder = tmp_path / "d"
    made = command("init", str(folder), "--address", address, "--party", "hospital=Germany")
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run([*made, "--make-keys"], check=True, env=environment, capture_output=True)
    write_survey(folder / "parties" / "hospital", "Germany")
    file = folder / "parties" / "hospital" / "supernode.toml"
    file.write_text(file.read_text().replace('path = ""', 'path = "survey.csv"'))
    yield folder
    for number in of_folder(folder):
        os.kill(number, signal.SIGKILL)


def test_a_node_is_registered_and_comes_in_by_the_only_door(folder: Path, tmp_path: Path) -> None:
    coordinator = Coordinator.open(folder)
    link_log, node_log = tmp_path / "link.log", tmp_path / "node.log"
    link = start(link_log, "superlink", str(folder))
    wait_for(link_log, "Nodes are known", link)
    registry = tomllib.loads(coordinator.registry.read_text())["nodes"]
    assert list(registry) == ["hospital"]
    assert registry["hospital"]["groups"] == ["Germany"]

    node = start(node_log, "supernode", str(folder / "parties" / "hospital"))
    wait_for(node_log, f"SuperNode ID: {registry['hospital']['node-id']}", node)
    found = deployment_status(coordinator)
    assert (found.up, [each.status for each in found.nodes]) == (True, ["online"])

    context = create_default_context(cafile=str(coordinator.authority))
    answered = {}
    for path in ("/health", "/v1/control/list-nodes", "/v1/fleet/../control/list-nodes"):
        outside = HTTPSConnection("127.0.0.1", coordinator.address.port, context=context)
        outside.request("GET", path)
        answered[path] = outside.getresponse().status
        outside.close()
    assert list(answered.values()) == [200, 403, 403]

    for process in (node, link):
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert not of_folder(folder)
    assert [path.name for path in coordinator.logs.iterdir()] == ["superlink.log"]
