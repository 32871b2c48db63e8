"""One HTTP/1.1 connection to a backend, and the exchanges that follow one another on it.

The protocol writes a request, keeps the time, and hands what comes back to a reader
(`http1_reader.py`). What the reader of a response's body holds is in `http1_response.py`; which
connection is used for what, and for how long, is decided in `connections.py`.

Rules kept here: a connection on which anything was odd is never used again; nothing is taken for
the next response that was sent before it was asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from contextlib import suppress
from typing import Protocol, cast

from ..exceptions import (
    ConnectError,
    ConnectionLost,
    MalformedResponse,
    ResponseTimeout,
    StaleConnection,
)
from ..timeouts import Timeouts
from .client import RequestBody, UpstreamRequest, header_lines
from .http1_reader import Heads, ResponseReader
from .http1_response import HIGH_WATER, Http1Response
from .timer import LazyTimer

#: Bytes that are read at a time: as many as possible, but less than the 128 KiB from which the C
#: library gets memory from the kernel, and gives it back, for each piece anew.
READ_SIZE = 120 * 1024

#: What OpenSSL calls the alerts with which a server turns a client's certificate down.
_IDENTITY_REFUSED = re.compile(r"ALERT_.*(CERT|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)")


class Owner(Protocol):
    """Who decides what a connection is used for."""

    def keep(self, connection: Http1Connection) -> None:
        """An exchange has ended and the connection can be used again."""
        ...

    def forget(self, connection: Http1Connection) -> None:
        """The connection cannot be used any more. Called once."""
        ...


class Successor(Protocol):
    """Who takes a connection over that has been switched to another protocol."""

    @property
    def upgrade(self) -> bytes:
        """The protocol's name as Upgrade has it (RFC 9110 §7.8), in lower case."""
        ...

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """The connection is yours; this much has arrived on it already."""
        ...


class Http1Connection(asyncio.BufferedProtocol):
    """One connection. At most one exchange at a time; between exchanges it is idle.

    Args:
        owner: Told when it is idle, and when it is gone.
        name: The backend's name for messages.
        timeouts: Response and idle timeouts.
        max_head: Bytes a response head may have; see `ResponseReader`.
        buffer: Where to read into. What is read is taken out at once, so all the connections of
            an event loop may have the same one.
        heads: What is known of response heads, which they may share likewise.
    """

    # A large pool has thousands of them.
    __slots__ = (
        "_buffer",
        "_heads",
        "_is_paused",
        "_is_reading_paused",
        "_owner",
        "_reader",
        "_response",
        "_room",
        "_successor",
        "_transport",
        "_unsent",
        "_upload",
        "exchanges",
        "expires",
        "loop",
        "max_head",
        "name",
        "timeouts",
        "timer",
    )

    def __init__(
        self,
        owner: Owner,
        name: str,
        *,
        timeouts: Timeouts,
        max_head: int,
        buffer: memoryview,
        heads: Heads,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = name
        self.timeouts = timeouts
        self.max_head = max_head
        #: One at a time: for the head, or for a piece of the body.
        self.timer = LazyTimer(self.loop)
        #: When it has been idle for too long, if it is not used before.
        self.expires = 0.0
        self.exchanges = 0
        self._buffer = buffer
        self._heads = heads
        self._owner: Owner | None = owner
        self._transport: asyncio.Transport | None = None
        self._response: Http1Response | None = None
        self._reader: ResponseReader | None = None
        self._successor: Successor | None = None
        self._upload: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_reading_paused = False
        self._unsent = 0

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent on it now."""
        transport = self._transport
        return transport is not None and self._response is None and not transport.is_closing()

    # The request.

    def start(
        self, request: UpstreamRequest, *, successor: Successor | None = None
    ) -> Http1Response:
        """Write a request. The response's `head` is done when its head has arrived.

        Args:
            request: What to write.
            successor: Gets the connection if the answer is 101. Default None: a 101 is refused.

        Raises:
            UpstreamError: The connection has been closed.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            if self.exchanges:
                raise StaleConnection(f"{self.name} closed an idle connection", request_sent=False)
            raise ConnectError(f"{self.name} closed a new connection at once")
        response = self._response = Http1Response(self, request.method)
        upgrade = None if successor is None else successor.upgrade
        self._reader = ResponseReader(response, self.name, self.max_head, self._heads, upgrade)
        self._successor = successor
        self.exchanges += 1
        try:
            self._write(transport, request)
        except BaseException:
            self.abort()
            raise
        return response

    def give_up(self, response: Http1Response) -> None:
        """Nobody waits for a response any more."""
        # When it has ended meanwhile, the connection may serve somebody else.
        if self._response is response:
            self.abort()

    def _write(self, transport: asyncio.Transport, request: UpstreamRequest) -> None:
        lines = request.lines
        if lines is None:
            lines = header_lines(request.headers)
        method = request.method.encode("ascii")
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, request.target, lines)
        body = request.body
        if body is None:
            transport.write(head)
            self._unsent = 0  # A head fits into the socket's buffer.
            self.timer.start(self.timeouts.response, self._on_response_timeout)
            return
        is_chunked = (b"transfer-encoding", b"chunked") in request.headers
        whole = body.complete
        if whole is None:
            transport.write(head)
            upload = self._send_body(transport, body, is_chunked)
            self._upload = self.loop.create_task(upload)
            return
        # Never writelines(): some releases of Python do not stop it, and do not end with an empty
        # piece.
        transport.write(head + (_chunk(whole) + b"0\r\n\r\n" if is_chunked else whole))
        self._await_response()

    async def _send_body(
        self, transport: asyncio.Transport, body: RequestBody, is_chunked: bool
    ) -> None:
        try:
            async for piece in body:
                transport.write(_chunk(piece) if is_chunked else piece)
                if self._is_paused:
                    await self._wait_for_room()
            if is_chunked:
                transport.write(b"0\r\n\r\n")
        except (Exception, asyncio.CancelledError) as exc:
            if self._upload is None:
                return  # Stopped by abort(): nobody waits for it any more.
            # What is wrong with the body is for whoever waits for the response to raise.
            self._upload = None
            self.fail(exc)
            return
        self._upload = None
        if self._response is not None and not self._response.status:
            self._await_response()

    async def _wait_for_room(self) -> None:
        self._room = self.loop.create_future()
        if self._response is not None and not self._response.status:
            self._await_response()
        try:
            await self._room
        finally:
            self._room = None
            if self._response is not None and not self._response.status:
                self.timer.stop()

    def _await_response(self) -> None:
        """From here on it is the backend's turn."""
        self._unsent = self._backlog
        self.timer.start(self.timeouts.response, self._on_response_timeout)

    @property
    def _backlog(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _on_response_timeout(self) -> None:
        if self._backlog < self._unsent:
            # It is still taking the request in: that is progress.
            self._await_response()
            return
        self.fail(
            ResponseTimeout(f"{self.name} did not answer for {self.timeouts.response:g} seconds")
        )

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by inheritance.
        stream = cast(asyncio.Transport, transport)
        self._transport = stream
        stream.set_write_buffer_limits(high=HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(self._buffer[:nbytes]))

    def _receive(self, data: bytes) -> None:
        response, reader = self._response, self._reader
        if response is None or reader is None:
            self.abort()  # Nobody asked.
            return
        had_head = response.status
        try:
            has_room = reader.read(data)
        except MalformedResponse as exc:
            self.fail(exc)
            return
        if not had_head and response.status:
            self.timer.stop()
            if response.status == 101:
                self._switch(response)
                return
        if response.is_complete:
            self._end_exchange(reader)
        elif not has_room and not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._end_of_stream(None, is_announced=self._is_end_announced())

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):
            self._read_what_is_left()
        self._end_of_stream(exc, is_announced=False)
        self._transport = None

    def _read_what_is_left(self) -> None:
        """Find the answer of a backend that closed without having read the whole request.

        Its reset makes our next write fail, and the loop gives the connection up, though an early
        answer (413, say) may have arrived before it.
        """
        response, transport = self._response, self._transport
        if response is None or response.status or transport is None:
            return
        if data := what_is_left(transport):
            self._receive(data)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def resume_reading(self) -> None:
        """The reader has made room."""
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()

    # The end.

    def _switch(self, response: Http1Response) -> None:
        """Pass the transport on before anything else can arrive on it."""
        transport, self._transport = self._transport, None
        if transport is not None and self._successor is not None:
            self._successor.take_over(transport, response.hand_over())
        self.abort()

    def _end_exchange(self, reader: ResponseReader) -> None:
        """The response is complete, and the segment it ended in has been looked at to its end."""
        transport = self._transport
        if (
            not reader.keeps_alive
            or self._upload is not None
            or transport is None
            or transport.get_write_buffer_size()  # The request has not gone out whole.
            or transport.is_closing()
        ):
            self.abort()
            return
        self._response = self._reader = None
        if self._is_reading_paused:
            self.resume_reading()
        if self._owner is not None:
            self._owner.keep(self)

    def _is_end_announced(self) -> bool:
        """Whether the end of the stream is one that the backend itself has made.

        Under TLS only a close_notify proves that. Without it a body that ends with its connection
        must count as cut off (RFC 9112 §9.8).
        """
        transport = self._transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        try:
            return tls is None or tls.read(1) == b""
        except ssl.SSLError:
            return False

    def _end_of_stream(self, exc: Exception | None, *, is_announced: bool) -> None:
        response, reader = self._response, self._reader
        if response is None or reader is None:
            self.abort()
        elif not response.status:
            self.fail(self._unanswered(exc, reader))
        elif reader.is_until_close and is_announced:
            response.complete()
            self.abort()
        else:
            message = f"{self.name}: connection {_how(exc)} in the middle of a response"
            self.fail(ConnectionLost(message, stage="body"))

    def _unanswered(
        self, exc: Exception | None, reader: ResponseReader
    ) -> StaleConnection | ConnectionLost | ConnectError:
        if reader.has_begun:
            return ConnectionLost(f"{self.name}: connection {_how(exc)} in the middle of a head")
        if self.exchanges > 1:
            return StaleConnection(f"{self.name}: reused connection {_how(exc)} unanswered")
        if isinstance(exc, ssl.SSLError) and _IDENTITY_REFUSED.search(exc.reason or ""):
            # In TLS 1.3 a server judges our certificate only after the handshake has ended on
            # our side, and takes in nothing of the request before.
            return ConnectError(f"{self.name}: {exc}")
        return ConnectionLost(f"{self.name}: connection {_how(exc)} before a response")

    def fail(self, error: BaseException) -> None:
        """End the exchange with an error, and the connection with it."""
        response, self._response = self._response, None
        if response is not None and not response.is_complete:
            response.fail(error)
        self.abort()

    def abort(self) -> None:
        """Close at once, whatever is under way. Again: no effect."""
        if self._reader is not None:
            self._reader.close()
        self._response = self._reader = self._successor = None
        self.timer.close()
        upload, self._upload = self._upload, None
        if upload is not None and upload is not asyncio.current_task():
            upload.cancel()
        if self._transport is not None:
            self._transport.abort()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.forget(self)

    def __repr__(self) -> str:
        state = "idle" if self.is_usable else "busy" if self._response else "closed"
        return f"<Http1Connection {self.name} {state}, {self.exchanges} exchanges>"


def what_is_left(transport: asyncio.BaseTransport) -> bytes:
    """What has arrived on a connection that is being given up; for `connection_lost()`.

    The next piece of it, or nothing if there is none, or no way to read it, as under TLS.
    """
    if transport.get_extra_info("ssl_object") is None:
        with (
            suppress(OSError),
            socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as last,
        ):
            last.setblocking(False)
            return last.recv(HIGH_WATER)
    return b""


def _chunk(piece: bytes) -> bytes:
    # RFC 9112 §7.1: a chunk of no length would end the body.
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def _how(exc: Exception | None) -> str:
    return "closed" if exc is None else f"lost: {exc}"
