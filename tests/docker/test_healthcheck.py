"""The health check of containers, against a real server."""

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deployment.certificates import issue_server_certificate, make_authority

SCRIPT = Path(__file__).parents[2] / "docker" / "healthcheck.py"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/health": 200, "/empty": 204}.get(self.path, 503))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(*arguments: str | Path) -> int:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_only_an_answer_that_all_is_well_is_healthy() -> None:
    with serving() as port:
        assert status(f"http://127.0.0.1:{port}/health") == 0
        assert status(f"http://127.0.0.1:{port}/empty") == 1
        assert status(f"http://127.0.0.1:{port}/other") == 1
    assert status(f"http://127.0.0.1:{port}/health") == 1


def test_a_superlink_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority, stranger = make_authority(30), make_authority(30)
    issued = issue_server_certificate(authority, ["superlink.example.org"], 30)
    files = {"server.pem": issued.certificate, "server.key": issued.key}
    files |= {"ca.crt": authority.certificate, "other.crt": stranger.certificate}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with serving(context) as port:
        url = f"https://localhost:{port}/health"
        assert status(url, tmp_path / "ca.crt") == 0
        assert status(url, tmp_path / "other.crt") == 1
