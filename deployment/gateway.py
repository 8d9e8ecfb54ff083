"""The only door to the SuperLink from outside: what nodes need, and nothing else.

Flower serves nodes, `flwr` and the ServerApp on one port, and asks nodes alone who they are. So
whoever reached that port could start a run, which is any code, on the coordinator's machine and
through it on every node. The SuperLink therefore listens on the loopback address only, and this
passes `/v1/fleet/` and `/health` on to it, with TLS on both ways.

The SuperLink reads whole bodies into memory before it asks who sent them. So this lets in only what
a known key has signed, bodies of a bounded size and time, and a bounded number of connections.
"""

import asyncio
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from deployment.bounded_protocol import DROPPED_SECONDS, BoundedProtocol
from deployment.coordinator import Coordinator
from deployment.node_auth import NodeAuthentication
from task.errors import DeploymentError

HEALTH = "/health"
FLEET = re.compile(r"/v1/fleet/[a-z-]+")
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}

BODY_BYTES = 32 * 2**20
"""Flower sends arrays in objects of 5 MiB; a message's metrics are one object."""
BODY_SECONDS = 300.0
"""For one body: 32 MiB over a line of 1 Mbit/s."""
DROPPED_BYTES = 64 * 2**10

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class RefusedError(Exception):
    """A request that is not passed on.

    Args:
        status: of HTTP.
        reason: for the other side; SuperNodes print it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Gateway:
    """An ASGI app that passes requests on.

    Args:
        port: where the SuperLink listens on 127.0.0.1; may be set anew.
        authority: the certificate authority's certificate, which the SuperLink's is checked with.
        authentication: says who may pass.
    """

    def __init__(self, port: int, authority: Path, authentication: NodeAuthentication) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self.port = port
        self._authentication = authentication
        self._client = httpx.AsyncClient(
            verify=context,
            timeout=httpx.Timeout(None, connect=5.0),  # a node waits as long as it likes
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,  # the way to this machine leads through no proxy
        )

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; see the ASGI specification."""
        if scope["type"] != "http":
            return
        try:
            if self._is_for_nodes(scope):
                url = f"https://127.0.0.1:{self.port}{scope['path']}"
                headers, body = _passed_on(scope["headers"]), _body(receive)
                request = self._client.build_request("POST", url, headers=headers, content=body)
            else:
                url = f"https://127.0.0.1:{self.port}{HEALTH}"
                request = self._client.build_request("GET", url)
            answer = await self._client.send(request, stream=True)
        except RefusedError as refused:
            await _drop(receive)
            await _answer(send, refused.status, refused.reason)
        except ConnectionAbortedError:
            return  # nobody is left to answer, and the SuperLink's connection was cut off, too
        except httpx.TransportError:
            await _answer(send, 502, "The SuperLink does not answer.")  # nodes try again
        else:
            await _pass_back(send, answer)

    def _is_for_nodes(self, scope: Event) -> bool:
        """Whether a request is a known node's; False: it asks for the SuperLink's health.

        Raises:
            RefusedError: it is neither.
        """
        if scope["path"] != HEALTH and not FLEET.fullmatch(scope["path"]):
            raise RefusedError(403, "Not for nodes.")
        fleet = scope["path"] != HEALTH
        if scope["method"] != ("POST" if fleet else "GET"):
            raise RefusedError(405, "Another method is expected.")
        if not fleet:
            return False
        try:
            objection = self._authentication.objection(scope["headers"])
        except DeploymentError as error:
            logging.getLogger("uvicorn.error").error("No node is let in: %s", error)
            raise RefusedError(503, "The coordinator's files are damaged.") from None  # tried again
        if objection:
            raise RefusedError(401, objection)
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > BODY_BYTES:  # checked by the server
                raise RefusedError(413, f"Expected at most {BODY_BYTES} bytes.")
        return True


@contextmanager
def open_gateway(
    coordinator: Coordinator, superlink_port: int, ended: Callable[[], None]
) -> Iterator[Gateway]:
    """Keep the gateway open at the deployment's address, in a thread, while the block runs.

    Args:
        coordinator: has the address and the certificates.
        superlink_port: where the SuperLink listens on 127.0.0.1.
        ended: called when the gateway ends by itself.

    Raises:
        DeploymentError: the port is in use, the address is not this machine's, or the server's
            certificate cannot be used.
    """
    gateway = Gateway(superlink_port, coordinator.authority, NodeAuthentication(coordinator))
    config = uvicorn.Config(
        gateway,
        http=BoundedProtocol,
        ssl_certfile=str(coordinator.certificate),
        lifespan="off",
        server_header=False,  # the SuperLink's own are passed on
        date_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError(
            f"{coordinator.certificate} does not hold the server's key and certificate ({error}). "
            "Make them anew with `pluralllm deploy renew`."
        ) from None
    server = uvicorn.Server(config)
    listen, port = coordinator.address.listen, coordinator.address.port
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        listener = socket.create_server((listen, port), family=family, backlog=2048)
    except OSError as error:
        raise DeploymentError(
            f"The SuperLink cannot listen on {listen}:{port}: {error.strerror}. Stop what is using "
            "the port, or change superlink.toml."
        ) from None

    def serve() -> None:
        try:
            server.run([listener])
        finally:
            if not server.should_exit:
                ended()

    with listener:
        thread = threading.Thread(target=serve, name="gateway", daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise DeploymentError("The gateway did not start; its last lines are above.")
            time.sleep(0.02)
        try:
            yield gateway
        finally:
            server.should_exit = True
            thread.join()


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without those that are for one connection only."""
    dropped = set(HOP_BY_HOP)
    for name, value in headers:
        if name.lower() == b"connection":
            dropped |= {each.strip().lower() for each in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    """Give a request's body.

    Raises:
        RefusedError: it is too long, or takes too long.
        ConnectionAbortedError: the node has gone before its end. Ending here instead would make the
            part that came look like the whole.
    """
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    size, more = 0, True
    while more:
        try:
            async with asyncio.timeout_at(deadline):
                event = await receive()
        except TimeoutError:
            raise RefusedError(408, f"Expected the body within {BODY_SECONDS:.0f} s.") from None
        if event["type"] != "http.request":
            raise ConnectionAbortedError
        part = event.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise RefusedError(413, f"Expected at most {BODY_BYTES} bytes.")
        yield part
        more = event.get("more_body", False)


async def _drop(receive: Receive) -> None:
    """Take in the little that a node sends at once, unread.

    Otherwise the connection is reset before it has read why it is refused.
    """
    size, more = 0, True
    try:
        async with asyncio.timeout(DROPPED_SECONDS):
            while more and size < DROPPED_BYTES:
                event = await receive()
                size += len(event.get("body", b""))
                more = event.get("more_body", False)
    except TimeoutError:
        return


async def _pass_back(send: Send, answer: httpx.Response) -> None:
    try:
        headers = _passed_on(answer.headers.raw)
        if answer.request.method == "GET":  # anybody's: connections are kept for nodes
            headers.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": answer.status_code}
        await send({**start, "headers": headers})
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await answer.aclose()


async def _answer(send: Send, status: int, reason: str) -> None:
    """Answer as Flower does, so that a SuperNode prints the reason, and end the connection."""
    text = json.dumps({"code": status, "detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
