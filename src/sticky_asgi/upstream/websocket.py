"""What the gateway asks of a WebSocket to a backend, and the client's half of the handshake.

A handshake is checked as RFC 6455 §4.1 has a client check it. No extension is ever offered:
extensions, permessage-deflate among them, are agreed for one connection (§9.1), so what the
visitor's browser offers is between the browser and the gateway's server. A backend compresses
nothing then, on a leg that is short.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..exceptions import MalformedResponse, UpstreamError
from ..request import RawHeaders
from .client import UpstreamRequest

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3

#: RFC 9110 §8.6: no Content-Length with a 1xx. §6.6.1: Date may be left out there. Servers add
#: their own, and that of the older `websockets`, uvicorn's `--ws websockets`, fails with two.
_DROPPED = (b"content-length", b"date")


class WebSocketEnded(Exception):
    """A WebSocket to a backend is over.

    Attributes:
        code: The code the backend closed it with; 1005 if it gave none, 1006 if the connection
            broke or had to be broken off (RFC 6455 §7.4.1).
        reason: The reason the backend gave.
        error: With 1006, what was wrong, for the operator's log. None if it was the gateway that
            let go.
    """

    def __init__(self, code: int, reason: str = "", error: UpstreamError | None = None) -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason
        self.error = error


@runtime_checkable
class UpstreamWebSocket(Protocol):
    """A WebSocket to a backend, its handshake done. One task sends, one receives."""

    @property
    def status(self) -> int:
        """101."""
        ...

    @property
    def headers(self) -> RawHeaders:
        """The handshake response's header section for the client: see `UpstreamResponse`. The
        fields Sec-WebSocket-* are not among them.
        """
        ...

    @property
    def subprotocol(self) -> str | None:
        """What the backend chose of the subprotocols that were offered."""
        ...

    async def receive(self) -> str | bytes:
        """The next message, its fragments joined.

        Raises:
            WebSocketEnded: There is none any more.
        """
        ...

    async def send(self, message: str | bytes) -> None:
        """Send a message; returns when there is room for another.

        Raises:
            WebSocketEnded: It is over. What was sent before may not have arrived.
        """
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, and wait for the backend to agree, for `close_timeout` at most.

        Messages not yet received are discarded. After the end: no effect.

        Args:
            code: A code that may be sent, or 1005 for none.
            reason: At most 123 bytes in UTF-8.
        """
        ...

    async def aclose(self) -> None:
        """Let go of it. Without a close before that drops the connection."""
        ...


class Handshake:
    """One opening handshake.

    Args:
        request: The request without what concerns this connection: see `UpstreamRequest`. Its
            Sec-WebSocket-Protocol is what is offered.
    """

    def __init__(self, request: UpstreamRequest) -> None:
        self._key = base64.b64encode(secrets.token_bytes(16))
        self._offered = offered_subprotocols(request.headers)
        self.request = UpstreamRequest(
            request.method,
            request.target,
            [
                *request.headers,
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-version", b"13"),
                (b"sec-websocket-key", self._key),
            ],
        )

    def check(self, who: str, headers: RawHeaders) -> str | None:
        """The subprotocol that a response with status 101 chooses.

        Raises:
            MalformedResponse: The response does not belong to this handshake, or chooses what was
                not offered.
        """
        # SHA-1 is what the RFC has; it protects nothing here.
        digest = hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest()
        if _values(headers, b"sec-websocket-accept") != [base64.b64encode(digest)]:
            raise MalformedResponse(f"{who} sent a wrong Sec-WebSocket-Accept")
        if any(_values(headers, b"sec-websocket-extensions")):
            raise MalformedResponse(f"{who} chose a WebSocket extension that was not offered")
        chosen = _values(headers, b"sec-websocket-protocol")
        if not chosen:
            return None
        return chosen_subprotocol(who, b", ".join(chosen).decode("latin-1"), self._offered)


def offered_subprotocols(headers: RawHeaders) -> list[str]:
    """The subprotocols that a request offers, in its order."""
    values = b",".join(_values(headers, b"sec-websocket-protocol")).decode("latin-1")
    return [name for part in values.split(",") if (name := part.strip(" \t"))]


def chosen_subprotocol(who: str, chosen: str, offered: Sequence[str]) -> str:
    """The subprotocol that was chosen. Raises MalformedResponse if it was not offered."""
    if chosen not in offered:
        raise MalformedResponse(f"{who} chose the subprotocol {chosen!r}, which was not offered")
    return chosen


def handshake_headers(headers: RawHeaders) -> RawHeaders:
    """A handshake response's fields without those that concern one WebSocket connection."""
    return [
        field
        for field in headers
        if field[0] not in _DROPPED and not field[0].startswith(b"sec-websocket-")
    ]


def _values(headers: RawHeaders, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
