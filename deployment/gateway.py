"""The only door to the SuperLink from outside: what nodes need, and nothing else.

Flower serves nodes, `flwr` and the ServerApp on one port, and asks nodes alone who they are. So
whoever reached that port could start a run, which is any code, on the coordinator's machine and
through it on every node. The SuperLink therefore listens on the loopback address only, and this
passes `/v1/fleet/` and `/health` on to it, with TLS on both ways.
"""

import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from deployment.coordinator import Coordinator
from task.errors import DeploymentError

OPEN_PATHS = re.compile(r"/health|/v1/fleet/[a-z-]+")
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Gateway:
    """An ASGI app that passes requests on.

    Args:
        port: where the SuperLink listens on 127.0.0.1.
        authority: the certificate authority's certificate, which the SuperLink's is checked with.
    """

    def __init__(self, port: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._client = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            verify=context,
            timeout=httpx.Timeout(None, connect=5.0),  # a node waits as long as it likes
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,  # the way to this machine leads through no proxy
        )

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; see the ASGI specification."""
        if scope["type"] != "http":
            return
        if not OPEN_PATHS.fullmatch(scope["path"]):
            await _answer(send, 403, b"Not for nodes.")
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        request = self._client.build_request(
            scope["method"], scope["path"], headers=kept, content=_body(receive)
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError:
            await _answer(send, 502, b"The SuperLink does not answer.")  # nodes try again
            return
        try:
            headers = [each for each in answer.headers.raw if each[0].lower() not in HOP_BY_HOP]
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": headers})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


@contextmanager
def open_gateway(coordinator: Coordinator, superlink_port: int) -> Iterator[None]:
    """Keep the gateway open at the deployment's address, in a thread, while the block runs.

    Args:
        coordinator: has the address and the certificates.
        superlink_port: where the SuperLink listens on 127.0.0.1.

    Raises:
        DeploymentError: the port is in use, or the address is not this machine's.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            Gateway(superlink_port, coordinator.authority),
            ssl_certfile=str(coordinator.certificate),
            ssl_keyfile=str(coordinator.key),
            lifespan="off",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )
    listen, port = coordinator.address.listen, coordinator.address.port
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        door = socket.create_server((listen, port), family=family, backlog=2048)
    except OSError as error:
        raise DeploymentError(
            f"The SuperLink cannot listen on {listen}:{port}: {error.strerror}. Stop what is using "
            "the port, or change superlink.toml."
        ) from None
    with door:
        thread = threading.Thread(target=server.run, args=([door],), name="gateway", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        event = await receive()
        if event["type"] != "http.request":  # the node has gone
            return
        yield event.get("body", b"")
        if not event.get("more_body"):
            return


async def _answer(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
