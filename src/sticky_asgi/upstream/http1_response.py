"""A response of one HTTP/1.1 exchange, as its reader holds it: a head, a bounded buffer, an end.

The connection feeds it and ends it; it parses nothing and decides nothing about the connection,
except that a reader who leaves before the end takes the connection along.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..exceptions import IdleTimeout
from ..request import RawHeaders

if TYPE_CHECKING:
    from .http1 import Http1Connection

#: Bytes of a body that are buffered before reading from the backend pauses.
HIGH_WATER = 65536


_NONE_YET: RawHeaders = []
_CLOSED = "the response has been closed"


class Http1Response:
    """A response while it arrives. See `UpstreamResponse`.

    Attributes:
        method: The request's method.
        status: 0 until the head has arrived.
        headers: See `UpstreamResponse`.
        head: Done when the head has arrived, or the exchange has failed before.
        is_complete: Whether the whole message has arrived, read or not.
    """

    __slots__ = (
        "_buffered",
        "_connection",
        "_error",
        "_pieces",
        "_waiter",
        "head",
        "headers",
        "is_complete",
        "method",
        "status",
    )

    def __init__(self, connection: Http1Connection, method: str) -> None:
        self.method = method
        self.status = 0
        self.headers = _NONE_YET
        self.head: asyncio.Future[None] = connection.loop.create_future()
        self._connection: Http1Connection | None = connection
        self._pieces: list[bytes] = []
        self._buffered = 0
        self.is_complete = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def at_end(self) -> bool:
        """Whether the body is over and everything of it has been read."""
        return self.is_complete and not self._pieces

    async def read(self) -> bytes:
        """The next piece of the body; `b""` at its end."""
        if not self._pieces and not self.is_complete and self._error is None:
            await self._wait()
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def _wait(self) -> None:
        connection = self._connection
        if connection is None:
            raise RuntimeError(_CLOSED)
        self._waiter = connection.loop.create_future()
        connection.timer.start(connection.timeouts.idle, self._on_idle_timeout)
        try:
            await self._waiter
        except BaseException:
            self._drop()
            raise
        finally:
            self._waiter = None
            # After the end the connection, and its timer, may serve another exchange already.
            if self._connection is not None:
                connection.timer.stop()

    def _on_idle_timeout(self) -> None:
        # A loop that was held up may find the piece and the timeout at one time.
        if self._connection is not None and not self._pieces:
            name, seconds = self._connection.name, self._connection.timeouts.idle
            error = IdleTimeout(f"{name} sent nothing of the body for {seconds:g} seconds")
            self._connection.fail(error)

    def _take(self) -> bytes:
        pieces = self._pieces
        if len(pieces) == 1:
            piece = pieces.pop()
        else:
            piece = self._take_several(pieces)
        self._buffered -= len(piece)
        if self._connection is not None and self._buffered <= HIGH_WATER:
            self._connection.resume_reading()
        return piece

    @staticmethod
    def _take_several(pieces: list[bytes]) -> bytes:
        count = size = 0
        for piece in pieces:
            size += len(piece)
            # Small ones are joined; a large one would only be copied.
            if count and size > HIGH_WATER:
                break
            count += 1
        piece = pieces[0] if count == 1 else b"".join(pieces[:count])
        del pieces[:count]
        return piece

    async def aclose(self) -> None:
        """Let go of the response. Before its end that drops the connection."""
        if self._connection is not None:
            self._drop()
        elif self._error is not None:
            self._error = RuntimeError(_CLOSED)  # The other's traceback leads here.
        self._pieces = []
        self._buffered = 0

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = RuntimeError(_CLOSED)
            connection.abort()
            self._wake()

    # For the connection.

    def begin(self, status: int, headers: RawHeaders) -> None:
        """The head has arrived."""
        self.status, self.headers = status, headers
        if not self.head.done():
            self.head.set_result(None)

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body. Whether there is room for more."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        self._wake()
        return self._buffered <= HIGH_WATER

    def finish(self, piece: bytes) -> None:
        """Take the last piece of the body."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        self.complete()

    def complete(self) -> None:
        """The message is over; the connection is free."""
        self.is_complete = True
        if self._waiter is not None:
            if self._connection is not None:
                self._connection.timer.stop()
            self._wake()
        self._connection = None

    def hand_over(self) -> bytes:
        """The connection carries another protocol now. Returns what has arrived of it."""
        self.is_complete = True
        self._connection = None
        pieces, self._pieces = self._pieces, []
        self._buffered = 0
        return b"".join(pieces)

    def fail(self, error: BaseException) -> None:
        """The message will not be completed."""
        self._connection = None
        self._error = error
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __repr__(self) -> str:
        end = "complete" if self.is_complete else "broken off" if self._error else "under way"
        return f"<Http1Response {self.status or 'no head yet'} {end}, {self._buffered} buffered>"
