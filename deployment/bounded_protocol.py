"""Bounds on connections that any stranger may open, whatever they ask for."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
CONNECTIONS = 400
"""At once, each with one to the SuperLink behind it: few enough for 1024 descriptors."""
DROPPED_SECONDS = 2.0
"""For a refused request to end, and its connection to close."""


class BoundedProtocol(H11Protocol):
    """Ends connections that ask for nothing, and those above a number: they cost descriptors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, after its TLS handshake."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(HEADER_SECONDS, self._end_if_silent)

    def on_response_complete(self) -> None:
        """Finish a response; a connection that is closed then does not wait for the other side."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(DROPPED_SECONDS, self.transport.abort)

    def _end_if_silent(self) -> None:
        if self.cycle is None:  # no request's headers are complete
            self.transport.abort()
