"""One HTTP/1.1 connection to a backend, and the exchanges that follow one another on it.

The protocol writes a request, parses what comes back and guards the limits. What the reader of a
response holds is in `http1_response.py`; which connection is used for what, and for how long, is
decided in `connections.py`.

Rules kept here: RFC 9112 §6.3 for the length of a body, where in doubt the stricter reading; a
connection on which anything was odd is never used again; nothing is taken for the next response
that was sent before it was asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from contextlib import suppress
from typing import Protocol, cast

import httptools

from ..exceptions import (
    ConnectError,
    ConnectionLost,
    MalformedResponse,
    ResponseTimeout,
    Stage,
    StaleConnection,
)
from ..headers import HOP_BY_HOP, listed, not_end_to_end
from ..request import RawHeaders
from ..timeouts import Timeouts
from .client import RequestBody, UpstreamRequest, header_lines
from .http1_response import HIGH_WATER, Http1Response
from .timer import LazyTimer

#: Bytes that are read at a time: as many as possible, but less than the 128 KiB from which the C
#: library gets memory from the kernel, and gives it back, for each piece anew.
READ_SIZE = 120 * 1024

_DIGITS = re.compile(rb"[0-9]{1,18}")
_BODILESS = frozenset({204, 304})
_FRAMING = HOP_BY_HOP | {b"content-length"}
_NO_FIELDS: RawHeaders = []
_END_OF_HEAD = b"\r\n\r\n"
#: What a reason phrase (RFC 9112 §4) and a field value (RFC 9110 §5.5) may hold.
_TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
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


class Http1Connection(asyncio.BufferedProtocol):
    """One connection. At most one exchange at a time; between exchanges it is idle.

    Args:
        owner: Told when it is idle, and when it is gone.
        name: The backend's name for messages.
        timeouts: Response and idle timeouts.
        max_head: Bytes a response head may have, every 1xx before it included. Trailers and
            chunk extensions are refused when they go on for longer than that.
        buffer: Where to read into. What is read is taken out at once, so all the connections of
            an event loop may have the same one.
    """

    # A large pool has thousands of them.
    __slots__ = (
        "_buffer",
        "_fault",
        "_fields",
        "_framing",
        "_head",
        "_head_size",
        "_is_paused",
        "_is_reading_paused",
        "_keeps_alive",
        "_left",
        "_overhead",
        "_owner",
        "_parser",
        "_response",
        "_room",
        "_tail",
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
        self, owner: Owner, name: str, *, timeouts: Timeouts, max_head: int, buffer: memoryview
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
        self._owner: Owner | None = owner
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Http1Response | None = None
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

    def start(self, request: UpstreamRequest) -> Http1Response:
        """Write a request. The response's `head` is done when its head has arrived.

        Raises:
            UpstreamError: The connection has been closed.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            if self.exchanges:
                raise StaleConnection(f"{self.name} closed an idle connection", request_sent=False)
            raise ConnectError(f"{self.name} closed a new connection at once")
        response = self._response = Http1Response(self, request.method)
        self.exchanges += 1
        self._expect_head()
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
        method, lines = request.method.encode("ascii"), request.lines
        if lines is None:
            lines = header_lines(request.headers)
        head = b"".join([method, b" ", request.target, b" HTTP/1.1\r\n", lines, b"\r\n"])
        body = request.body
        if body is None:
            transport.write(head)
            self._unsent = 0
            self.timer.start(self.timeouts.response, self._on_response_timeout)
            return
        is_chunked = (b"transfer-encoding", b"chunked") in request.headers
        whole = body.complete
        if whole is None:
            transport.write(head)
            upload = self._send_body(transport, body, is_chunked)
            self._upload = self.loop.create_task(upload)
            return
        parts = _chunk(whole) if is_chunked else (whole,)
        transport.writelines([head, *parts, b"0\r\n\r\n" if is_chunked else b""])
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
        response = self._response
        if response is None:
            self.abort()  # Nobody asked.
            return
        if not response.status:
            data = self._read_heads(data, response)
        if data and self._response is response:
            left = self._left
            if left is None:
                self._read_chunks(data, response)
            else:
                self._pass_on(data, left, response)
        if response.is_complete:
            self._end_exchange()

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
        if transport.get_extra_info("ssl_object") is not None:
            return
        data = b""
        with (
            suppress(OSError),
            socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as last,
        ):
            last.setblocking(False)
            data = last.recv(HIGH_WATER)
        if data:
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

    # The response.

    def _expect_head(self) -> None:
        # A new one each time: what the last response said must not colour this one.
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""
        self._head_size = 0
        self._fields: RawHeaders = []
        self._framing: RawHeaders = []
        self._fault: str | None = None
        self._keeps_alive = False
        #: Bytes of the body still to come, or -1 for all until the connection ends. None while
        #: only the parser can tell.
        self._left: int | None = None

    def _read_heads(self, data: bytes, response: Http1Response) -> bytes:
        """Feed the parser the head, and every 1xx before it. Returns what comes after.

        The parser is never given more than a head: it does not tell where one ended, passes over
        line breaks between two messages, and knows nothing of HEAD.
        """
        while data and not response.status and self._response is response:
            begun = self._head
            head = begun + data
            if head[0] != 0x48:
                # "H". The parser would take line breaks before it, RTSP and ICE as well.
                self._refuse(response, f"it begins with {data[:8]!r}")
                return b""
            end = head.find(_END_OF_HEAD, max(0, len(begun) - 3))
            rest = b""
            if end >= 0:
                rest = head[end + 4 :]
                head = head[: end + 4]
                data = head[len(begun) :]
            if self._head_size + len(head) > self.max_head:
                self._refuse(response, f"head over {self.max_head} bytes")
                return b""
            self._head = head
            # A bad head is refused as soon as it shows, not when it ends.
            self._parse(data, response)
            if end >= 0 and self._response is response:
                self._end_head(head, response)
            data = rest
        return data

    def _end_head(self, head: bytes, response: Http1Response) -> None:
        status = 0 if self._parser is None else self._parser.get_status_code()
        is_1_1 = head.startswith(b"HTTP/1.1 ")
        fault: str | None = None
        if head.translate(None, _TEXT).replace(b"\r\n", b""):
            fault = "a control character, or CR or LF alone"
        elif not (is_1_1 or head.startswith(b"HTTP/1.0 ")) or not 100 <= status <= 599:
            fault = f"status {status} of {head[:8]!r}"
        elif status == 101:
            fault = "switched protocols unasked"
        elif status >= 200:
            fault = self._begin(response, status, is_1_1)
        else:
            # Whatever it says of a body, it has none (RFC 9110 §15.2): a new parser will not
            # look for one.
            self._parser = httptools.HttpResponseParser(self)
            self._head_size += len(head)
            self._head, self._fields, self._framing = b"", [], []
        if fault is not None:
            self._refuse(response, fault)

    def _begin(self, response: Http1Response, status: int, is_1_1: bool) -> str | None:
        """Work out where the body ends (RFC 9112 §6.3). Returns what is wrong, if anything."""
        length: bytes | None = None
        coding: bytes | None = None
        connection: frozenset[bytes] = frozenset()
        for name, value in self._framing:
            if name == b"content-length":
                if length is not None or not _DIGITS.fullmatch(value.rstrip(b" \t")):
                    return f"Content-Length {value!r}"
                length = value
            elif name == b"connection":
                connection |= listed(value)
            elif name == b"transfer-encoding":
                # With a tab behind it, the parser would not take it for chunked.
                is_chunked = value.rstrip(b" ").lower() == b"chunked"
                if coding is not None or not is_chunked or not is_1_1:
                    return f"Transfer-Encoding {value!r}"
                coding = value
        if coding is not None and length is not None:
            return "both Transfer-Encoding and Content-Length"
        self._keeps_alive = b"close" not in connection and (is_1_1 or b"keep-alive" in connection)
        left: int | None
        if response.method == "HEAD" or status in _BODILESS:
            left = 0
        elif length is not None:
            left = int(length)
        elif coding is not None:
            left, self._overhead, self._tail = None, 0, b""
        else:
            left, self._keeps_alive = -1, False
        headers = self._fields
        self._left = left
        if left is None:
            # What may follow are trailers, which an ASGI server cannot send.
            self._fields, self._framing = [], []
        else:
            # The parser waits for a body now, which it will not get to see.
            self._parser, self._fields, self._framing = None, _NO_FIELDS, _NO_FIELDS
        if dropped := not_end_to_end(connection, status=status):
            headers = [field for field in headers if field[0] not in dropped]
        self.timer.stop()
        response.begin(status, headers)
        if left == 0:
            response.complete()
        return None

    def _read_chunks(self, data: bytes, response: Http1Response) -> None:
        self._overhead += len(data)
        self._parse(data, response)
        if not response.is_complete:
            self._tail = data[-4:] if len(data) >= 4 else (self._tail + data)[-4:]
            if self._overhead > self.max_head:
                self._refuse(response, f"trailers or extensions over {self.max_head} bytes")
        elif not _ends_once((self._tail + data)[-5:]):
            self._fault = "bytes after the end of the response"

    def _parse(self, data: bytes, response: Http1Response) -> None:
        parser = self._parser
        if parser is None:  # pragma: no cover - there is one wherever this is called
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fault = self._fault or "switched protocols unasked"
        except httptools.HttpParserError as exc:
            self._fault = self._fault or str(exc.__context__ or exc)
        if self._fault is not None and not response.is_complete:
            self._refuse(response, self._fault)

    def _refuse(self, response: Http1Response, fault: str) -> None:
        stage: Stage = "body" if response.status else "head"
        self.fail(MalformedResponse(f"{self.name} sent a bad response: {fault}", stage=stage))

    def _pass_on(self, data: bytes, left: int, response: Http1Response) -> None:
        """Body bytes whose number is known need no parser."""
        size = len(data)
        if left < 0 or size < left:
            self._left = left if left < 0 else left - size
            self._take(data, response)
            return
        if size > left:
            # That does the message no harm; only the connection is spoilt.
            self._fault = "bytes after the end of the response"
        if left:
            self._left = 0
            response.finish(data[:left])

    def _take(self, data: bytes, response: Http1Response) -> None:
        if not response.feed(data) and not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        if self._response is None or self._response.status:
            self._fault = "another response without another request"

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _FRAMING:
            self._fields.append((name, value.rstrip(b" \t")))
            return
        self._framing.append((name, value))
        if name == b"content-length":
            self._fields.append((name, value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is not None and not response.is_complete:
            self._overhead = 0
            self._take(body, response)

    def on_message_complete(self) -> None:
        # Of a 1xx and of a message whose length is known it says nothing new.
        response = self._response
        if response is not None and response.status and self._left is None:
            response.complete()

    # The end.

    def _end_exchange(self) -> None:
        """The response is complete, and the segment it ended in has been looked at to its end."""
        transport = self._transport
        if (
            not self._keeps_alive
            or self._fault is not None
            or self._upload is not None
            or transport is None
            or transport.get_write_buffer_size()  # The request has not gone out whole.
            or transport.is_closing()
        ):
            self.abort()
            return
        self._response = None
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
        response = self._response
        if response is None:
            self.abort()
        elif not response.status:
            self.fail(self._unanswered(exc))
        elif self._left == -1 and is_announced:
            response.complete()
            self.abort()
        else:
            message = f"{self.name}: connection {_how(exc)} in the middle of a response"
            self.fail(ConnectionLost(message, stage="body"))

    def _unanswered(self, exc: Exception | None) -> StaleConnection | ConnectionLost | ConnectError:
        if self._head_size or self._head:
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
        self._response = None
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


def _chunk(piece: bytes) -> tuple[bytes, bytes, bytes]:
    # RFC 9112 §7.1: a chunk of no length would end the body.
    return (b"%x\r\n" % len(piece), piece, b"\r\n") if piece else (b"", b"", b"")


def _how(exc: Exception | None) -> str:
    return "closed" if exc is None else f"lost: {exc}"


def _ends_once(last: bytes) -> bool:
    """Whether a chunked body's last five bytes end with one empty line, and not with more."""
    return last.endswith(_END_OF_HEAD) and last[:1] not in (b"\r", b"\n")
