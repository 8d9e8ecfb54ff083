"""The gateway before a stand-in for a SuperLink."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.client import HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from ssl import create_default_context
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.supercore.date import now
from flwr.supernode import node_auth_http_interceptor as interceptor

from deployment import bounded_protocol, gateway
from deployment.certificates import Issued
from deployment.coordinator import Coordinator, parse_address
from deployment.gateway import open_gateway
from deployment.node_keys import public_key_text
from deployment.parties import Party
from task.errors import DeploymentError
from tests.deployment import test_certificates

HOSPITAL = ec.generate_private_key(ec.SECP384R1())
STRANGER = ec.generate_private_key(ec.SECP384R1())


def signed(key: ec.EllipticCurvePrivateKey = HOSPITAL) -> dict[str, str]:
    """The headers that a SuperNode sends, as Flower makes them."""
    request = httpx.Request("POST", "https://x", headers={"X-Key": "mine"})
    context: Any = type("Context", (), {"request": request})
    interceptor.NodeAuthHttpInterceptor(key, key.public_key()).intercept(
        context, lambda _: httpx.Response(200)
    )
    return {
        each: value
        for each, value in request.headers.items()
        if each not in ("host", "content-length")
    }


def none() -> None:
    """The gateway is not expected to end."""


class Echo(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - the stand-in is one class per test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(412 if body == b"refuse" else 200)
        answer = f"{self.path} {self.headers['X-Key']} ".encode() + body[::-1]
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def hospital(key: ec.EllipticCurvePrivateKey = HOSPITAL) -> Party:
    return Party("hospital", ("Germany",), public_key=public_key_text(key.public_key()).text)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = parse_address(f"127.0.0.1:{unused.getsockname()[1]}")
    return Coordinator.create(tmp_path / "d", address, [hospital()], days=1)


@pytest.fixture
def served(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Coordinator]:
    """A deployment with an open gateway before a stand-in."""
    monkeypatch.setattr(test_certificates, "Healthy", Echo)
    monkeypatch.setattr(Echo, "asked", [])
    server = Issued(*[coordinator.certificate.read_bytes()] * 2)
    with test_certificates.served(server, tmp_path) as port, open_gateway(coordinator, port, none):
        yield coordinator


def ask(
    coordinator: Coordinator,
    method: str,
    path: str,
    body: Any = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[HTTPResponse, bytes]:
    context = create_default_context(cafile=str(coordinator.authority))
    connection = HTTPSConnection("127.0.0.1", coordinator.address.port, context=context)
    connection.request(method, path, body, signed() if headers is None else headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def post(
    coordinator: Coordinator, path: str, body: Any, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    answer, content = ask(coordinator, "POST", path, body, headers)
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


PATH = "/v1/fleet/push-object"


def without(name: str) -> dict[str, str]:
    return {each: value for each, value in signed().items() if each != name}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "Not signed"),
        (without("flwr-signature"), "Not signed"),
        (without("flwr-timestamp"), "Not signed"),
        (without("flwr-public-key"), "Not signed"),
        (signed() | {"flwr-timestamp": "2026-01-01T00:00:00+00:00"}, "Not signed"),
        (signed() | {"flwr-timestamp": "yesterday"}, "Not signed"),
        (signed() | {"flwr-timestamp": "2026-01-01"}, "Not signed"),
        (signed() | {"flwr-signature": "AAAA"}, "Not signed"),
        (signed() | {"flwr-signature": "\xff"}, "Not signed"),
        (signed() | {"flwr-public-key": signed(STRANGER)["flwr-public-key"]}, "not registered"),
        (signed(STRANGER), "not registered"),
    ],
)
def test_a_stranger_is_refused_before_the_superlink_hears_of_it(
    served: Coordinator, headers: dict[str, str], reason: str
) -> None:
    status, answer = post(served, PATH, b"small", headers)
    assert status == 401
    assert reason in answer.decode()
    assert Echo.asked == []


def test_a_strangers_body_without_an_end_is_not_read(
    served: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gateway, bounded_protocol):
        monkeypatch.setattr(module, "DROPPED_SECONDS", 0.2)

    def endless() -> Iterator[bytes]:
        while True:  # only the gateway can end this
            yield bytes(2**16)

    with pytest.raises(OSError):
        post(served, PATH, endless(), signed(STRANGER))
    assert Echo.asked == []


@pytest.mark.parametrize(("seconds", "status"), [(-320, 401), (-290, 200), (60, 401)])
def test_a_clock_that_is_minutes_off_is_said(
    served: Coordinator, monkeypatch: pytest.MonkeyPatch, seconds: float, status: int
) -> None:
    monkeypatch.setattr(interceptor, "now", lambda: now() + timedelta(seconds=seconds))
    answered, content = post(served, PATH, b"x", signed())
    assert answered == status
    assert (b"clocks differ" in content) == (status == 401)


def test_a_key_that_is_replaced_is_refused_from_then_on(served: Coordinator) -> None:
    assert post(served, PATH, b"x", signed())[0] == 200
    with served.changing_parties() as parties:
        parties["hospital"] = hospital(STRANGER)
    assert post(served, PATH, b"x", signed())[0] == 401
    assert post(served, PATH, b"x", signed(STRANGER))[0] == 200


def test_damaged_parties_let_nobody_in_and_are_a_reason_to_try_again(served: Coordinator) -> None:
    served.parties_file.write_text("[parties")
    assert post(served, PATH, b"x")[0] == 503
    assert Echo.asked == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded_whether_its_size_is_told_or_not(
    served: Coordinator, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(gateway, "BODY_BYTES", 1000)
    assert post(served, PATH, bytes(1000))[0] == 200
    body = iter([bytes(600), bytes(600)]) if chunked else bytes(1001)
    status, answer = post(served, PATH, body)
    assert status == 413
    assert b"at most 1000 bytes" in answer


def test_a_body_has_a_deadline(served: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BODY_SECONDS", 0.2)
    with connected(served) as stream:
        stream.sendall(request_head(length=10) + b"half")
        assert b" 408 " in stream.recv(1000)


def test_what_was_cut_off_does_not_pass_for_the_whole(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """The end of a chunked body (`0`) must not be sent by anybody but the node."""
    seen = b""
    done = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(coordinator.certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def superlink() -> None:
            nonlocal seen
            raw, _ = listener.accept()
            raw.settimeout(10)
            with context.wrap_socket(raw, server_side=True) as stream:
                try:
                    while part := stream.recv(10_000):
                        seen += part
                except OSError:
                    pass
            done.set()

        threading.Thread(target=superlink, daemon=True).start()
        with open_gateway(coordinator, listener.getsockname()[1], none):
            with connected(coordinator) as stream:
                stream.sendall(request_head() + b"4\r\nhalf\r\n")
                threading.Event().wait(0.3)
            assert done.wait(10)
    assert b"4\r\nhalf\r\n" in seen
    assert not seen.endswith(b"0\r\n\r\n")


def request_head(length: int | None = None) -> bytes:
    headers = signed()
    if length is None:
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = str(length)
    lines = [f"POST {PATH} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def connected(coordinator: Coordinator) -> ssl.SSLSocket:
    context = create_default_context(cafile=str(coordinator.authority))
    raw = socket.create_connection(("127.0.0.1", coordinator.address.port), timeout=10)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_a_connection_that_asks_for_nothing_is_ended(
    served: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_protocol, "HEADER_SECONDS", 0.2)
    with connected(served) as stream:
        stream.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nHost:")
        with pytest.raises(ConnectionResetError):
            assert stream.recv(100) == b"", "it was answered"
            raise ConnectionResetError  # ended in the orderly way


def test_connections_are_bounded(served: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "CONNECTIONS", 1)
    with connected(served), pytest.raises(OSError):
        post(served, PATH, b"x")


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", "/health")])
def test_each_path_has_one_method(served: Coordinator, method: str, path: str) -> None:
    assert ask(served, method, path)[0].status == 405
    assert Echo.asked == []


def test_health_is_for_everybody_and_passes_nothing_on(served: Coordinator) -> None:
    answer, _ = ask(served, "GET", "/health", b"body", {"X-Key": "x"})
    assert (answer.status, Echo.asked) == (200, ["/health"])


def test_headers_of_one_connection_stay_there(served: Coordinator) -> None:
    headers = signed() | {"Connection": "X-Key, keep-alive", "Proxy-Connection": "x"}
    answer, content = ask(served, "POST", PATH, b"x", headers)
    assert content == f"{PATH} None x".encode()
    assert len(answer.headers.get_all("date") or []) == 1
    assert len(answer.headers.get_all("server") or []) == 1


def test_a_superlink_that_is_away_is_a_reason_to_try_again(coordinator: Coordinator) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with open_gateway(coordinator, nobody.getsockname()[1], none):
            assert post(coordinator, "/v1/fleet/pull-messages", b"x")[0] == 502


def test_a_port_in_use_is_said(coordinator: Coordinator) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", coordinator.address.port))
        taken.listen()
        gateway_there = open_gateway(coordinator, 1, none)
        with pytest.raises(DeploymentError, match="cannot listen on"), gateway_there:
            pass


def test_a_certificate_of_another_key_is_said_before_anything_starts(
    coordinator: Coordinator,
) -> None:
    mixed = STRANGER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = coordinator.certificate.read_bytes()
    coordinator.certificate.write_bytes(
        mixed + certificate[certificate.index(b"-----BEGIN CERT") :]
    )
    with pytest.raises(DeploymentError, match="deploy renew"), open_gateway(coordinator, 1, none):
        pass


def test_a_gateway_that_ends_by_itself_is_noticed(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed = threading.Event()
    stop = threading.Event()

    async def fail_later(_: object) -> None:
        while not stop.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(uvicorn.Server, "main_loop", fail_later)
    with open_gateway(coordinator, 1, noticed.set):
        assert not noticed.is_set()
        stop.set()
        assert noticed.wait(10)


def test_a_gateway_that_does_not_start_is_said(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: None)
    with pytest.raises(DeploymentError, match="start"), open_gateway(coordinator, 1, none):
        pass
