"""One HTTP/1.1 connection to a backend, and the exchanges that follow one another on it.

`Http1Connection` is the protocol: it writes a request, parses what comes back and guards the
limits. `Http1Response` is what the reader holds: a head, a bounded buffer, an end. Which
connection is used for what, and for how long, is decided in `connections.py`.

Rules kept here: RFC 9112 §6.3 for the length of a body, where in doubt the stricter reading; a
connection on which anything was odd is never used again; nothing is taken for the next response
that was sent before it was asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from ..exceptions import (
    ConnectionLost,
    IdleTimeout,
    MalformedResponse,
    ResponseTimeout,
    Stage,
    StaleConnection,
)
from ..headers import listed
from ..request import RawHeaders
from ..timeouts import Timeouts
from .client import RequestBody, UpstreamRequest

#: Bytes of a body that are buffered before reading from the backend pauses.
HIGH_WATER = 65536

_DIGITS = re.compile(rb"[0-9]{1,18}")
_BODILESS = frozenset({204, 304})


class Http1Response:
    """A response while it arrives. See `UpstreamResponse`."""

    __slots__ = (
        "_buffered",
        "_connection",
        "_error",
        "_is_complete",
        "_pieces",
        "_waiter",
        "head",
        "headers",
        "method",
        "status",
    )

    def __init__(self, connection: Http1Connection, method: str) -> None:
        self.method = method
        self.status = 0
        self.headers: RawHeaders = []
        self.head: asyncio.Future[None] = connection.loop.create_future()
        self._connection: Http1Connection | None = connection
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._is_complete = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_head(self) -> bool:
        """Whether the head has arrived."""
        return self.status != 0

    @property
    def is_complete(self) -> bool:
        """Whether the whole message has arrived, read or not."""
        return self._is_complete

    @property
    def at_end(self) -> bool:
        """Whether the body is over and everything of it has been read."""
        return self._is_complete and not self._pieces

    async def read(self) -> bytes:
        """The next piece of the body; `b""` at its end."""
        if not self._pieces and not self._is_complete and self._error is None:
            await self._wait()
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def _wait(self) -> None:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the response has been closed")
        self._waiter = connection.loop.create_future()
        connection.start_timer(connection.timeouts.idle, self._on_idle_timeout)
        try:
            await self._waiter
        except BaseException:
            connection.abort()
            raise
        finally:
            self._waiter = None
            connection.stop_timer()

    def _on_idle_timeout(self) -> None:
        if self._connection is not None:
            seconds = self._connection.timeouts.idle
            self._connection.fail(IdleTimeout(f"no byte of the body for {seconds:g} seconds"))

    def _take(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._buffered = 0
        if self._connection is not None:
            self._connection.resume_reading()
        return data

    async def aclose(self) -> None:
        """Let go of the response. Before its end that drops the connection."""
        self._pieces.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # For the connection.

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body. Whether there is room for more."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        self._wake()
        return self._buffered <= HIGH_WATER

    def complete(self) -> None:
        """The message is over; the connection is free."""
        self._is_complete = True
        self._connection = None
        self._wake()

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
        end = "complete" if self._is_complete else "under way"
        return f"<Http1Response {self.status or 'no head yet'} {end}, {self._buffered} buffered>"


class Http1Connection(asyncio.Protocol):
    """One connection. At most one exchange at a time; between exchanges it is idle.

    Args:
        name: The backend's name for messages.
        timeouts: Response and idle timeouts.
        max_head: Bytes a response head may have, every 1xx before it included; and bytes of
            trailers or chunk extensions in a row.
        on_idle: Called when an exchange has ended and the connection can be used again.
        on_gone: Called once when it cannot be used any more.
    """

    def __init__(
        self,
        name: str,
        *,
        timeouts: Timeouts,
        max_head: int,
        on_idle: Callable[[Http1Connection], None],
        on_gone: Callable[[Http1Connection], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = name
        self.timeouts = timeouts
        self.max_head = max_head
        self.idle_since = 0.0
        self.exchanges = 0
        self._on_idle = on_idle
        self._on_gone: Callable[[Http1Connection], None] | None = on_gone
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Http1Response | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._upload: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_reading_paused = False
        self._unsent = 0
        self._expect_head()

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent on it now."""
        transport = self._transport
        return transport is not None and self._response is None and not transport.is_closing()

    # The request.

    async def send(self, request: UpstreamRequest) -> Http1Response:
        """Write a request and wait for the head of its response."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise StaleConnection(f"{self.name} closed an idle connection", request_sent=False)
        response = self._response = Http1Response(self, request.method)
        self.exchanges += 1
        self._expect_head()
        self._write(transport, request)
        try:
            await response.head
        except BaseException:
            if response.head.done() and not response.head.cancelled():
                response.head.exception()  # Retrieved, though it may not be what is raised.
            self.abort()
            raise
        return response

    def _write(self, transport: asyncio.Transport, request: UpstreamRequest) -> None:
        parts = [request.method.encode("ascii"), b" ", request.target, b" HTTP/1.1\r\n"]
        is_chunked = False
        for name, value in request.headers:
            parts += (name, b": ", value, b"\r\n")
            is_chunked = is_chunked or name == b"transfer-encoding"
        parts.append(b"\r\n")
        body = request.body
        whole = b"" if body is None else body.complete
        if whole:
            parts += _chunk(whole) if is_chunked else (whole,)
        if whole is not None and is_chunked:
            parts.append(b"0\r\n\r\n")
        transport.write(b"".join(parts))
        if body is not None and whole is None:
            upload = self._send_body(transport, body, is_chunked)
            self._upload = self.loop.create_task(upload)
        else:
            self._await_response()

    async def _send_body(
        self, transport: asyncio.Transport, body: RequestBody, is_chunked: bool
    ) -> None:
        try:
            async for piece in body:
                if is_chunked:
                    transport.writelines(_chunk(piece))
                else:
                    transport.write(piece)
                if self._is_paused:
                    await self._wait_for_room()
            if is_chunked:
                transport.write(b"0\r\n\r\n")
        except Exception as exc:
            # What is wrong with the body is for whoever waits for the response to raise.
            self._upload = None
            self.fail(exc)
            return
        self._upload = None
        if self._response is not None and not self._response.has_head:
            self._await_response()

    async def _wait_for_room(self) -> None:
        self._room = self.loop.create_future()
        if self._response is not None and not self._response.has_head:
            self._await_response()
        try:
            await self._room
        finally:
            self._room = None
            if self._response is not None and not self._response.has_head:
                self.stop_timer()

    def _await_response(self) -> None:
        """From here on it is the backend's turn."""
        self._unsent = self._backlog
        self.start_timer(self.timeouts.response, self._on_response_timeout)

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

    # Timers: one at a time, for the head or for a piece of the body.

    def start_timer(self, seconds: float | None, callback: Callable[[], None]) -> None:
        """Arm the one timer; None arms nothing."""
        self.stop_timer()
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, callback)

    def stop_timer(self) -> None:
        """Disarm it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by inheritance.
        stream = cast(asyncio.Transport, transport)
        self._transport = stream
        stream.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # Nobody asked.
            return
        if self._raw_left is None:
            self._parse(data, response)
        else:
            self._pass_on(data, response)
        if response.is_complete:
            self._end_exchange()

    def eof_received(self) -> None:
        self._end_of_stream(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_stream(exc)

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

    # The response.

    def _expect_head(self) -> None:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._fields: RawHeaders = []
        self._head_size = 0
        self._field_size = 0
        self._overhead = 0
        self._has_bytes = False
        self._fault: str | None = None
        self._keeps_alive = False
        #: Bytes of the body still to come when they need no parser: a known length, or -1 for
        #: all until the connection ends. None while the parser is in charge.
        self._raw_left: int | None = None
        self._next_raw: int | None = None

    def _parse(self, data: bytes, response: Http1Response) -> None:
        self._has_bytes = True
        self._overhead += len(data)
        parser = self._parser
        if parser is None:  # pragma: no cover - set by _expect_head
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fault = self._fault or "switched protocols unasked"
        except httptools.HttpParserError as exc:
            self._fault = self._fault or str(exc.__context__ or exc)
        if self._overhead > self.max_head and not response.is_complete:
            self._fault = self._fault or f"head or trailers over {self.max_head} bytes"
        if self._fault is not None:
            self._refuse(response, self._fault)
        elif self._response is response and response.has_head:
            self._raw_left = self._next_raw

    def _refuse(self, response: Http1Response, fault: str) -> None:
        # Junk behind a complete message does it no harm; only the connection is spoilt.
        if not response.is_complete:
            stage: Stage = "body" if response.has_head else "head"
            self.fail(MalformedResponse(f"{self.name} sent a bad response: {fault}", stage=stage))

    def _pass_on(self, data: bytes, response: Http1Response) -> None:
        """Body bytes whose length is known need no parser."""
        left = self._raw_left or 0
        self._parser = None
        if left < 0:
            self._take(data, response)
            return
        excess = len(data) - left
        if excess > 0:
            data = data[:left]
            self._fault = "bytes after the end of the response"
        self._raw_left = self._next_raw = left - len(data)
        self._take(data, response)
        if self._raw_left == 0:
            self.stop_timer()
            response.complete()

    def _take(self, data: bytes, response: Http1Response) -> None:
        if not response.feed(data) and not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        if self._response is None or self._response.has_head:
            self._fault = "another response without another request"

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_size += len(name) + len(value) + 4
        if self._field_size > self.max_head:
            self._fault = f"head or trailers over {self.max_head} bytes"
        elif self._response is not None and not self._response.has_head:
            # After the head these are trailers, which an ASGI server cannot send.
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        response, parser = self._response, self._parser
        if response is None or parser is None or self._fault is not None:
            return
        status = parser.get_status_code()
        if status == 101:
            self._fault = "switched protocols unasked"
        elif 100 <= status < 200:
            self._fields = []
        elif not 200 <= status <= 599 or parser.get_http_version() not in ("1.0", "1.1"):
            self._fault = f"status {status} of HTTP/{parser.get_http_version()}"
        else:
            self._fault = self._read_framing(response, status, parser.get_http_version())
            if self._fault is None:
                self._begin(response, status)

    def _read_framing(self, response: Http1Response, status: int, version: str) -> str | None:
        """Work out where the body ends (RFC 9112 §6.3). Returns what is wrong, if anything."""
        lengths = []
        codings = []
        connection: frozenset[bytes] = frozenset()
        for name, value in self._fields:
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
            elif name == b"connection":
                connection |= listed(value)
        if len(lengths) > 1 or (lengths and not _DIGITS.fullmatch(lengths[0])):
            return f"Content-Length {b', '.join(lengths)!r}"
        if codings and (lengths or codings != [b"chunked"] or version == "1.0"):
            return f"Transfer-Encoding {b', '.join(codings)!r}"
        self._keeps_alive = b"close" not in connection and (
            version == "1.1" or b"keep-alive" in connection
        )
        if response.method == "HEAD" or status in _BODILESS:
            self._next_raw = 0
        elif codings:
            self._next_raw = None
        elif lengths:
            self._next_raw = int(lengths[0])
        else:
            self._next_raw, self._keeps_alive = -1, False
        return None

    def _begin(self, response: Http1Response, status: int) -> None:
        response.status, response.headers = status, self._fields
        self.stop_timer()
        self._overhead = self._field_size = 0
        if not response.head.done():
            response.head.set_result(None)
        if self._next_raw == 0:
            # The parser cannot be told that an answer to HEAD has no body, so it is let go.
            self._parser = None
            self._complete(response)

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is None or response.is_complete:
            self._fault = "bytes after the end of the response"
            return
        self._overhead = self._field_size = 0
        if self._next_raw is not None and self._next_raw > 0:
            self._next_raw -= len(body)
        self._take(body, response)

    def on_message_complete(self) -> None:
        response = self._response
        if response is not None and response.has_head and self._next_raw != -1:
            self._complete(response)

    # The end.

    def _complete(self, response: Http1Response) -> None:
        if not response.is_complete and self._fault is None:
            self.stop_timer()
            response.complete()

    def _end_exchange(self) -> None:
        """The response is complete, and the segment it ended in has been looked at to its end."""
        transport = self._transport
        is_reusable = self._keeps_alive and self._upload is None and self._fault is None
        if not is_reusable or transport is None or transport.is_closing():
            self.abort()
            return
        self._response = None
        self.resume_reading()
        self._on_idle(self)

    def _end_of_stream(self, exc: Exception | None) -> None:
        response = self._response
        if response is None or response.is_complete:
            self.abort()
        elif not response.has_head:
            self.fail(self._unanswered(exc))
        elif self._raw_left == -1 and exc is None:
            response.complete()
            self.abort()
        else:
            reason = "closed" if exc is None else f"lost: {exc}"
            message = f"{self.name}: connection {reason} in the middle of a response"
            self.fail(ConnectionLost(message, stage="body"))

    def _unanswered(self, exc: Exception | None) -> StaleConnection | ConnectionLost:
        reason = "closed" if exc is None else f"lost: {exc}"
        if self.exchanges > 1 and not self._has_bytes:
            return StaleConnection(f"{self.name}: reused connection {reason} unanswered")
        return ConnectionLost(f"{self.name}: connection {reason} before a response")

    def fail(self, error: BaseException) -> None:
        """End the exchange with an error, and the connection with it."""
        response, self._response = self._response, None
        if response is not None and not response.is_complete:
            response.fail(error)
        self.abort()

    def abort(self) -> None:
        """Close at once, whatever is under way. Again: no effect."""
        self._response = None
        self.stop_timer()
        upload, self._upload = self._upload, None
        if upload is not None and upload is not asyncio.current_task():
            upload.cancel()
        if self._transport is not None:
            self._transport.abort()
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone(self)

    def __repr__(self) -> str:
        state = "idle" if self.is_usable else "busy" if self._response else "closed"
        return f"<Http1Connection {self.name} {state}, {self.exchanges} exchanges>"


def _chunk(piece: bytes) -> tuple[bytes, bytes, bytes]:
    # RFC 9112 §7.1: a chunk of no length would end the body.
    return (b"%x\r\n" % len(piece), piece, b"\r\n") if piece else (b"", b"", b"")
