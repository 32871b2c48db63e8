"""A WebSocket on a connection that an HTTP/1.1 exchange has opened.

Frames, masking and the rules of closing are those of `websockets`' sans-I/O core (RFC 6455), but
for the usual messages, which `frames.py` reads and writes; this file joins fragments, keeps the
time, and bounds what is held in memory, in both directions. Import it when it is needed:
`websockets` is an optional dependency.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from ..exceptions import ConnectionLost, IdleTimeout, MalformedResponse, UpstreamError
from ..request import RawHeaders
from ..websocket_options import WebSocketOptions
from .frames import FrameReader, MaskedFrames
from .http1 import what_is_left
from .http1_response import HIGH_WATER
from .timer import LazyTimer
from .websocket import WebSocketEnded

#: What a message counts for besides its length: empty ones take memory, too.
_OVERHEAD = 64


class Http1WebSocket(asyncio.BufferedProtocol):
    """See `UpstreamWebSocket`. Takes over a connection that has been switched, as its `Successor`.

    Args:
        name: The backend's name for messages.
        options: See `WebSocketOptions`.
        buffer: Where to read into; see `Http1Connection`.
        registry: Holds it from when it takes its connection over until that is gone.
    """

    __slots__ = (
        "_buffer",
        "_end",
        "_fragments",
        "_frames",
        "_held",
        "_is_discarding",
        "_is_paused",
        "_is_reading_paused",
        "_is_text",
        "_loop",
        "_masked",
        "_messages",
        "_name",
        "_options",
        "_pong",
        "_protocol",
        "_registry",
        "_taken",
        "_timer",
        "_transport",
        "_unsent",
        "_waiters",
        "_written",
        "headers",
        "subprotocol",
    )

    status = 101
    upgrade = b"websocket"

    def __init__(
        self,
        name: str,
        *,
        options: WebSocketOptions,
        buffer: memoryview,
        registry: set[Http1WebSocket],
    ) -> None:
        self.headers: RawHeaders = []
        self.subprotocol: str | None = None
        self._name = name
        self._options = options
        self._buffer = buffer
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        #: One at a time: for a ping, for its answer, or for the end of a close.
        self._timer = LazyTimer(self._loop)
        self._protocol = Protocol(Side.CLIENT, state=OPEN, max_size=options.max_message)
        self._frames = FrameReader(is_masked=False, max_message=options.max_message)
        self._masked = MaskedFrames()
        self._transport: asyncio.Transport | None = None
        self._end: tuple[int, str, UpstreamError | None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._messages: deque[str | bytes] = deque()
        self._held = 0
        self._fragments = bytearray()
        self._is_text = False
        self._is_discarding = False
        self._is_reading_paused = False
        self._is_paused = False
        self._pong = b""
        #: Bytes: all that was written. Then, when a ping had been: those of them that were still in
        #: our buffer, and those that had left it.
        self._written = self._unsent = self._taken = 0

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close it."""
        return self._end is None and self._protocol.state is OPEN

    @property
    def is_over(self) -> bool:
        """Whether the backend has ended it, or its connection has ended."""
        return self._end is not None

    async def receive(self) -> str | bytes:
        """The next message, its fragments joined."""
        while not self._messages:
            await self._wait()
        message = self._messages.popleft()
        self._held -= len(message) + _OVERHEAD
        if self._held <= HIGH_WATER:
            self._resume_reading()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message; returns when there is room for another."""
        while not self.is_open:
            await self._wait()
        self._write(self._masked.frame_of(message))
        while self._is_paused:
            await self._wait()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, and wait for the backend to agree, for `close_timeout` at most."""
        if self.is_open:
            if code == CloseCode.NO_STATUS_RCVD:
                self._protocol.send_close()
            else:
                self._protocol.send_close(code, reason)
            self._flush()
            self._timer.start(self._options.close_timeout, self.abort)
        self._is_discarding = True
        self._messages.clear()
        self._held = 0
        self._resume_reading()
        with suppress(WebSocketEnded):
            while True:
                await self._wait()

    async def aclose(self) -> None:
        """Let go of it. Without a close before that drops the connection."""
        # What is being closed is closed by the timer at the latest.
        if self._protocol.state is OPEN:
            self.abort()

    async def _wait(self) -> None:
        """Wait until something has changed. Raises WebSocketEnded when nothing will any more."""
        if self._end is not None:
            raise WebSocketEnded(*self._end)
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # For the connection that is switched.

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """See `Successor`."""
        self._transport = transport
        self._registry.add(self)
        transport.set_protocol(self)
        self._expect_life()
        if data:
            self._receive(data)
        if transport.is_closing():
            # The answer was found in a connection that had been lost: nobody says so again.
            self.connection_lost(None)

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        self._break_off(
            ConnectionLost(f"{self._name} closed a WebSocket's connection", stage="body")
        )

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        if isinstance(exc, OSError) and transport is not None:
            # Our own write has failed: what the backend sent before it left is still to be read.
            while self._end is None and (data := what_is_left(transport)):
                self._receive(data)
        self._break_off(ConnectionLost(f"{self._name}: WebSocket lost: {exc}", stage="body"))
        self._timer.close()
        self._registry.discard(self)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        pong, self._pong = self._pong, b""
        if pong:
            self._write(pong)
        self._wake()

    # What arrives.

    def _receive(self, data: bytes) -> None:
        if self._protocol.state is OPEN:
            messages, data = self._frames.read(data)
            for message in messages:
                self._deliver(message)
        if data:
            self._receive_by_core(data)
        if self.is_open:
            self._expect_life()
            self._pause_when_full()
        self._wake()

    def _receive_by_core(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        try:
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    self._take(event)
        except UnicodeDecodeError as exc:
            protocol.fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
            self._break_off(self._refused(exc))
        if protocol.parser_exc is not None:
            self._break_off(self._refused(protocol.parser_exc))
        self._answer()

    def _refused(self, exc: Exception) -> MalformedResponse:
        return MalformedResponse(f"{self._name} broke the WebSocket protocol: {exc}", stage="body")

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            close = Close.parse(frame.data)
            self._finish(int(close.code), close.reason)
        elif opcode is Opcode.CONT:
            # Joined as they come: many small ones must not take more memory than the message.
            self._fragments += frame.data
            if frame.fin:
                self._deliver_data(self._fragments)
                self._fragments = bytearray()
        elif opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._is_text = opcode is Opcode.TEXT
            if frame.fin:
                self._deliver_data(frame.data)
            else:
                self._fragments += frame.data

    def _deliver_data(self, data: bytes | bytearray | memoryview) -> None:
        self._deliver(str(data, "utf-8") if self._is_text else bytes(data))

    def _deliver(self, message: str | bytes) -> None:
        if not self._is_discarding:
            self._messages.append(message)
            self._held += len(message) + _OVERHEAD

    def _pause_when_full(self) -> None:
        if self._held > HIGH_WATER and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()
            self._timer.stop()  # Whom nobody listens to cannot give a sign of life.

    def _resume_reading(self) -> None:
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()
            if self.is_open:
                self._expect_life()

    # What is sent.

    def _flush(self) -> None:
        """Write what the protocol has to say."""
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._written += len(data)
            self._transport.write(data)

    def _answer(self) -> None:
        """Write what the protocol has to say to what has arrived."""
        if not self._is_paused or self._end is not None:
            self._flush()
        elif pongs := self._protocol.data_to_send():
            # RFC 6455 §5.5.3: of pongs that have piled up the last is enough. A backend that asks
            # and never listens would fill our memory with the others.
            self._pong = pongs[-1]

    # Signs of life.

    def _expect_life(self) -> None:
        self._timer.start(self._options.ping_interval, self._ping)

    def _ping(self) -> None:
        self._protocol.send_ping(b"")
        self._flush()
        self._await_life()

    def _await_life(self) -> None:
        self._unsent = self._backlog
        self._taken = self._written - self._unsent
        self._timer.start(self._options.ping_timeout, self._on_ping_timeout)

    @property
    def _backlog(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _on_ping_timeout(self) -> None:
        if self._unsent and self._written - self._backlog > self._taken:
            # It takes in what came before the ping, however much has come after it: that is life.
            self._await_life()
            return
        self._protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._flush()
        seconds = self._options.ping_timeout
        self._break_off(IdleTimeout(f"{self._name} did not answer a ping for {seconds:g} seconds"))
        self.abort()

    # The end.

    def _finish(self, code: int, reason: str = "", error: UpstreamError | None = None) -> None:
        if self._end is None:
            self._end = (code, reason, error)
            # RFC 6455 §7.1.1: the server closes the connection; we only see that it does.
            self._timer.start(self._options.close_timeout, self.abort)
            self._wake()

    def _break_off(self, error: UpstreamError) -> None:
        self._finish(CloseCode.ABNORMAL_CLOSURE, "", error)

    def abort(self) -> None:
        """Drop the connection. Again: no effect."""
        self._finish(CloseCode.ABNORMAL_CLOSURE)
        self._timer.close()
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closing" if self._transport else "closed"
        return f"<Http1WebSocket {self._name} {state}, {self._held} bytes held>"
