import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509

from deployment import certificates
from deployment.certificates import (
    Issued,
    days_left,
    issue_server_certificate,
    load_certificate,
    make_authority,
    read_certificate,
)
from deployment.probe import probe
from task.errors import DeploymentError


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(server: Issued, folder: Path) -> Iterator[int]:
    """A TLS server on the loopback address; gives its port."""
    (folder / "served.pem").write_bytes(server.certificate)
    (folder / "served.key").write_bytes(server.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "served.pem", folder / "served.key")
    http = HTTPServer(("127.0.0.1", 0), Healthy)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield http.server_address[1]
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def authority() -> Issued:
    return make_authority(days=30)


def authority_file(authority: Issued, folder: Path) -> Path:
    (folder / "ca.crt").write_bytes(authority.certificate)
    return folder / "ca.crt"


def test_a_certificate_names_what_was_asked_for_and_this_machine(authority: Issued) -> None:
    server = issue_server_certificate(authority, ["link.example.org", "10.1.2.3"], days=10)
    names = (
        load_certificate(server.certificate, "it")
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert names.get_values_for_type(x509.DNSName) == ["link.example.org", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("10.1.2.3", "127.0.0.1", "::1")
    ]


def test_a_client_with_the_authority_trusts_the_server(authority: Issued, tmp_path: Path) -> None:
    server = issue_server_certificate(authority, [], days=10)
    with served(server, tmp_path) as port:
        for name in ("127.0.0.1", "localhost"):
            assert probe(name, port, authority_file(authority, tmp_path)).up


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("authority", "another deployment"),
        ("name", "renew --name"),
        ("expired", "deploy renew"),
    ],
)
def test_a_client_says_why_it_does_not_trust(
    authority: Issued,
    tmp_path: Path,
    change: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change == "name":
        monkeypatch.setattr(certificates, "LOCAL_NAMES", ("elsewhere.example.org",))
    issuer = make_authority(days=30) if change == "authority" else authority
    if change == "expired":
        monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=2))
    server = issue_server_certificate(issuer, [], days=-1 if change == "expired" else 10)
    with served(server, tmp_path) as port:
        found = probe("127.0.0.1", port, authority_file(authority, tmp_path))
    assert not found.up
    assert found.wrong
    assert reason in found.reason


def test_nobody_there_may_change(tmp_path: Path, authority: Issued) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = probe("127.0.0.1", unused.getsockname()[1], authority_file(authority, tmp_path))
    assert not found.up
    assert not found.wrong
    assert "Nobody answers" in found.reason


def test_asking_without_tls_where_there_is_tls_is_said(tmp_path: Path, authority: Issued) -> None:
    server = issue_server_certificate(authority, [], days=10)
    with served(server, tmp_path) as port:
        found = probe("127.0.0.1", port, None)
    assert not found.up
    assert found.wrong
    assert "Leave --insecure out" in found.reason


def test_a_server_certificate_does_not_outlive_its_authority(authority: Issued) -> None:
    server = load_certificate(issue_server_certificate(authority, [], 900).certificate, "it")
    assert server.not_valid_after_utc == (
        load_certificate(authority.certificate, "it").not_valid_after_utc
    )
    assert days_left(server) == 29


def test_a_key_of_another_authority_signs_nothing(authority: Issued) -> None:
    mixed = Issued(authority.certificate, make_authority(days=30).key)
    with pytest.raises(DeploymentError, match="do not belong together"):
        issue_server_certificate(mixed, [], days=10)


def test_an_expired_certificate_is_refused_before_anything_connects(
    tmp_path: Path, authority: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = authority_file(authority, tmp_path)
    assert read_certificate(file).issuer == read_certificate(file).subject
    monkeypatch.setattr(certificates, "_now", lambda: datetime.now(UTC) + timedelta(days=31))
    with pytest.raises(DeploymentError, match="expired on"):
        read_certificate(file)


def test_what_is_no_certificate_or_name_is_said(tmp_path: Path, authority: Issued) -> None:
    (tmp_path / "ca.crt").write_text("hello")
    with pytest.raises(DeploymentError, match="is not a PEM certificate"):
        read_certificate(tmp_path / "ca.crt")
    with pytest.raises(DeploymentError, match="cannot be read"):
        read_certificate(tmp_path / "gone.crt")
    with pytest.raises(DeploymentError, match="host name"):
        issue_server_certificate(authority, ["zürich.example.org"], days=10)
