"""What the gateway asks of a backend's client, whatever carries the bytes.

One `UpstreamClient` serves one backend in one event loop. Three exist: the gateway's own HTTP/1.1
transport, any transport made for httpx or httpx2, and an ASGI application in process. All of them
raise `UpstreamError` and nothing else for what a backend does wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

from ..request import RawHeaders

if TYPE_CHECKING:
    from .websocket import UpstreamWebSocket


class RequestBody(Protocol):
    """A request's body, which may be sent more than once while it is still held."""

    @property
    def complete(self) -> bytes | None:
        """The whole body if it is at hand already, else None."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """One pass over the body, from its beginning. Raises `ClientError` if it breaks off."""
        ...


#: Statuses without a body (RFC 9110 §15.3.5, §15.4.5).
BODILESS = frozenset({204, 304})


def header_lines(headers: RawHeaders) -> bytes:
    """A header section as HTTP/1.1 writes it: each field a line, each line ended."""
    return b"\r\n".join([*[b": ".join(field) for field in headers], b""])


class UpstreamRequest:
    """A request as it goes to a backend: nothing is added to it, and nothing interpreted.

    Args:
        method: The method.
        target: Request target, byte for byte (RFC 9112 §3.2).
        headers: The whole header section. Exactly one of Content-Length and Transfer-Encoding
            tells how the body is framed; a request without a body may have neither.
        body: The body, or None.
        scheme: The scheme the visitor used. Only an in-process application gets to see it.
        client: Address and port of the connection it came by, likewise.
        lines: `headers` as HTTP/1.1 writes them (see `header_lines`). Default None: that is still
            to be done, where it is needed.
    """

    __slots__ = ("body", "client", "headers", "lines", "method", "scheme", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: RawHeaders,
        body: RequestBody | None = None,
        *,
        scheme: str = "http",
        client: tuple[str, int] | None = None,
        lines: bytes | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.scheme = scheme
        self.client = client
        self.lines = lines

    def __repr__(self) -> str:
        return f"<UpstreamRequest {self.method} {self.target!r}>"


class UpstreamResponse(Protocol):
    """A response whose head has arrived."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def headers(self) -> RawHeaders:
        """The header section for the client: order, duplicates and bytes kept, names in lower
        case, without what concerned the backend's connection (see `headers.end_to_end`).
        """
        ...

    @property
    def at_end(self) -> bool:
        """Whether the body is over and everything of it has been read."""
        ...

    async def read(self) -> bytes:
        """The next piece of the body, as soon as there is one; `b""` at its end.

        Raises:
            UpstreamError: The body broke off, was malformed, or paused for too long.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the response. Before its end that drops the connection."""
        ...


class UpstreamClient(Protocol):
    """Sends requests to one backend, from one event loop."""

    async def send(self, request: UpstreamRequest, *, fresh: bool = False) -> UpstreamResponse:
        """Send a request and wait for the head of the response.

        Args:
            request: What to send.
            fresh: Whether to insist on a new connection.

        Raises:
            UpstreamError: The backend could not be reached or did not answer properly.
            ClientError: The request's body broke off.
        """
        ...

    async def open_websocket(
        self, request: UpstreamRequest
    ) -> UpstreamWebSocket | UpstreamResponse:
        """Open a WebSocket, on a connection of its own.

        Args:
            request: A GET request without a body, and without what concerns one connection:
                Connection, Upgrade and every Sec-WebSocket field but Sec-WebSocket-Protocol.

        Returns:
            The WebSocket, or the response with which the backend refused it.

        Raises:
            UpstreamError: The backend could not be reached or did not answer properly.
            RuntimeError: The package `websockets` is missing.
        """
        ...

    async def reach(self) -> None:
        """Open a connection, with TLS where that belongs to it, and close it.

        Raises:
            UpstreamError: The backend could not be reached.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections now, and the others when their exchanges end."""
        ...
