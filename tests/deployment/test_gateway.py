"""The gateway before a stand-in for a SuperLink."""

import socket
from collections.abc import Iterator
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from ssl import create_default_context

import pytest

from deployment.certificates import Issued
from deployment.coordinator import Coordinator, parse_address
from deployment.gateway import open_gateway
from task.errors import DeploymentError
from tests.deployment import test_certificates


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(412 if body == b"refuse" else 200)
        answer = f"{self.path} {self.headers['X-Key']} ".encode() + body[::-1]
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = parse_address(f"127.0.0.1:{unused.getsockname()[1]}")
    return Coordinator.create(tmp_path / "d", address, [], days=1)


@pytest.fixture
def served(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Coordinator]:
    """A deployment with an open gateway before a stand-in."""
    monkeypatch.setattr(test_certificates, "Healthy", Echo)
    server = Issued(coordinator.certificate.read_bytes(), coordinator.key.read_bytes())
    with test_certificates.served(server, tmp_path) as port, open_gateway(coordinator, port):
        yield coordinator


def post(coordinator: Coordinator, path: str, body: bytes) -> tuple[int, bytes]:
    context = create_default_context(cafile=str(coordinator.authority))
    connection = HTTPSConnection("127.0.0.1", coordinator.address.port, context=context)
    connection.request("POST", path, body, {"X-Key": "mine"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_what_a_node_sends_and_gets_passes_unchanged(served: Coordinator) -> None:
    body = bytes(range(256)) * 20_000
    status, answer = post(served, "/v1/fleet/push-object", body)
    assert status == 200
    assert answer == b"/v1/fleet/push-object mine " + body[::-1]
    assert post(served, "/v1/fleet/activate-node", b"refuse")[0] == 412


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/pull-messages",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/x/../../control/start-run",
        "//v1/control/start-run",
        "/",
    ],
)
def test_nothing_else_is_let_in(served: Coordinator, path: str) -> None:
    assert post(served, path, b"x")[0] == 403


def test_a_superlink_that_is_away_is_a_reason_to_try_again(coordinator: Coordinator) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with open_gateway(coordinator, nobody.getsockname()[1]):
            assert post(coordinator, "/v1/fleet/pull-messages", b"x")[0] == 502


def test_a_port_in_use_is_said(coordinator: Coordinator) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", coordinator.address.port))
        taken.listen()
        with pytest.raises(DeploymentError, match="cannot listen on"), open_gateway(coordinator, 1):
            pass
