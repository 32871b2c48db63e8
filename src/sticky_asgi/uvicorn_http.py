"""uvicorn's HTTP protocols, with the head of a response and the beginning of its body in one write.

uvicorn writes the head when it is told the status, and the first piece of the body after that: two
system calls and two segments, even where both are at hand. For small responses the second one is
a seventh of all that a gateway costs. `sticky-asgi run` has these protocols; elsewhere:

    uvicorn app:app --http sticky_asgi.uvicorn_http:HttpToolsProtocol

or `uvicorn.run(app, http=HttpToolsProtocol)`. They work for every ASGI application.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol as _H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _HttpToolsProtocol

if TYPE_CHECKING:
    import h11

#: Larger pieces are not copied behind the head, but written after it.
JOINED = 16384


class H11Protocol(_H11Protocol):
    """uvicorn's `--http h11`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_holding_heads(transport, self.loop))

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Let a WebSocket have the connection itself: it writes no heads."""
        self.transport = _released(self.transport)
        super().handle_websocket_upgrade(event)
        _end_refused(self.transport)


class HttpToolsProtocol(_HttpToolsProtocol):
    """uvicorn's `--http httptools`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_holding_heads(transport, self.loop))

    def eof_received(self) -> None:
        """Let out what is held back: the loop closes the connection, and not through the holder."""
        _released(self.transport)
        super().eof_received()

    def handle_websocket_upgrade(self) -> None:
        """Let a WebSocket have the connection itself: it writes no heads."""
        self.transport = _released(self.transport)
        super().handle_websocket_upgrade()
        # It calls back, and nobody tells this protocol when the connection is lost.
        self.parser = None  # type: ignore[assignment]
        _end_refused(self.transport)


class HeadHolder:
    """A transport that holds a head back until the next write, or the loop's next turn.

    Whatever else is asked of it the transport below does. What begins as a head does is taken for
    one; nothing else is ever held back, hence no more than one write.

    Args:
        transport: The connection.
        loop: The event loop.
    """

    __slots__ = ("_held", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write, or hold back what is a head."""
        held = self._held
        if held:
            self._held = b""
            if len(data) <= JOINED:
                self._transport.write(held + data)
                return
            self._transport.write(held)
        elif data[:7] == b"HTTP/1.":
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self.is_closing():
            self._transport.write(held)

    def release(self) -> asyncio.Transport:
        """The connection, with nothing held back any more."""
        self._flush()
        return self._transport

    def writelines(self, pieces: Any) -> None:
        """Write several pieces."""
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        """Write nothing more."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close when everything has been written."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that are still to be written."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def __repr__(self) -> str:
        return f"<HeadHolder {len(self._held)} held, {self._transport!r}>"


def _holding_heads(
    transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
) -> asyncio.Transport:
    return cast(asyncio.Transport, HeadHolder(transport, loop))


def _released(transport: asyncio.Transport) -> asyncio.Transport:
    return cast(HeadHolder, transport).release()


_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def _end_refused(transport: asyncio.Transport) -> None:
    """Answer a handshake that `websockets` has turned down by itself, which uvicorn leaves open.

    For a field over 8 KiB, or more than 128 of them, newer versions have a 431 ready; for a body
    they have nothing.
    """
    conn: Any = getattr(transport.get_protocol(), "conn", None)
    if getattr(conn, "handshake_exc", None) is not None and not transport.is_closing():
        transport.write(b"".join(conn.data_to_send()) or _BAD_REQUEST)
        transport.close()
