"""uvicorn's WebSocket protocol, with the usual messages read and written without its parser.

What is said of `upstream/frames.py` holds for the client's side as well: half of what a message
costs is spent in the parser, and on a pause in reading until the application has taken it.
`sticky-asgi run` has this protocol, if it is what uvicorn would take by itself; elsewhere:

    uvicorn app:app --ws sticky_asgi.uvicorn_websocket:WebSocketsSansIOProtocol

It works for every ASGI application. Where compression was agreed on, all is left to uvicorn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol as _WebSocketsSansIOProtocol,
)

from .upstream.frames import FrameReader, frame_of, is_plain

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

#: Bytes that may wait for the application before reading pauses.
HIGH_WATER = 65536
#: Seconds that are left, of those in which the server ends, for WebSockets to be closed.
FAREWELL = 1.0
#: What a message counts for besides its length: empty ones take memory, too.
_OVERHEAD = 64


class EventQueue:
    """As much of `asyncio.Queue` as uvicorn makes use of, in a quarter of the time.

    Args:
        loop: The event loop.
    """

    __slots__ = ("_events", "_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[Any] = deque()
        self._waiters: set[asyncio.Future[None]] = set()

    def empty(self) -> bool:
        """Whether `get` would wait."""
        return not self._events

    def put_nowait(self, event: Any) -> None:
        """Add an event for whoever comes first."""
        self._events.append(event)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def get(self) -> Any:
        """Take the oldest event, waiting for one."""
        while not self._events:
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._events.popleft()


class WebSocketsSansIOProtocol(_WebSocketsSansIOProtocol):
    """uvicorn's `--ws websockets-sansio`.

    When the server ends, uvicorn closes WebSockets at once. This one goes on for as long as
    requests may (`timeout_graceful_shutdown`), but for the last second, and is closed with 1012
    then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = EventQueue(self.loop)  # type: ignore[assignment]
        self._frames = FrameReader(is_masked=True, max_message=self.config.ws_max_size)
        #: Bytes that have come since the application has taken all.
        self._waiting = 0
        self._end: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Take the usual messages, and leave the rest to uvicorn."""
        if is_plain(self.conn):
            messages, data = self._frames.read(data)
            if messages:
                self._deliver(messages)
        elif self.handshake_initiated:
            # What comes before the application has accepted. The handshake itself is no frame.
            self._frames.skip(data)
        if data:
            super().data_received(data)

    def _deliver(self, messages: list[str | bytes]) -> None:
        queue = self.queue
        if queue.empty():
            self._waiting = 0
        for message in messages:
            if isinstance(message, str):
                queue.put_nowait({"type": "websocket.receive", "text": message})
            else:
                queue.put_nowait({"type": "websocket.receive", "bytes": message})
            self._waiting += len(message) + _OVERHEAD
        if self._waiting > HIGH_WATER and not self.read_paused:
            # Until the application has taken all: see uvicorn's `receive`.
            self.read_paused = True
            self.transport.pause_reading()

    def shutdown(self) -> None:
        """The server ends: let what is going on go on until its time is nearly over."""
        patience = self.config.timeout_graceful_shutdown
        if not patience:
            super().shutdown()
        elif self._end is None:
            self._end = self.loop.call_later(max(0, patience - FAREWELL), super().shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        """Write the usual message, and leave the rest to uvicorn."""
        content = _content_of(message)
        if (
            content is not None
            and is_plain(self.conn)
            and self.writable.is_set()
            and not self.transport.is_closing()
        ):
            self.transport.write(frame_of(content))
        else:
            await super().send(message)


def _content_of(message: ASGISendEvent) -> str | bytes | None:
    """What is to be sent, or None if it is not sent in the usual way."""
    if message["type"] != "websocket.send":
        return None
    data = message.get("bytes")
    if data is not None:
        return data if type(data) is bytes else None
    text = message.get("text")
    return text if type(text) is str else None
