"""Reads the responses that come over an HTTP/1.1 connection: bytes in, a head and a body out.

No I/O, no timers, no connection: what is read goes to an `Http1Response`, and what is wrong is
raised. httptools parses heads and chunks; where a head ends and how a body is framed is decided
here (RFC 9112 §6.3, where in doubt the stricter reading).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import httptools

from ..exceptions import MalformedResponse, Stage
from ..headers import DIGITS, FIELD_TEXT, HOP_BY_HOP, listed, not_end_to_end
from ..memo import Memo
from ..request import RawHeaders
from .client import BODILESS
from .http1_response import Http1Response

_FRAMING = HOP_BY_HOP | {b"content-length"}
_END_OF_HEAD = b"\r\n\r\n"


#: Heads that are remembered, and the most bytes of one. Most have a Date, and come no more when its
#: second is over: more of them would be of use to nobody, and hold memory all the same.
_REMEMBERED = 512
_LARGEST = 4096


class ReadHead(NamedTuple):
    """What the head of a final response comes to, where it says how long the body is."""

    status: int
    headers: RawHeaders
    #: Bytes of the body; -1: all until the connection ends.
    length: int
    keeps_alive: bool


#: Backends repeat themselves, within the second of a Date at least. What a head comes to depends
#: on its bytes alone, but for HEAD, whose answers are not kept here.
Heads: TypeAlias = Memo[bytes, ReadHead]


def remembered_heads() -> Heads:
    """A memory for the heads of responses, which connections of one event loop may share."""
    return Memo(_REMEMBERED)


class ResponseReader:
    """Reads one response, and every 1xx before it.

    Args:
        response: Gets what is read.
        who: The backend's name for messages.
        max_head: Bytes a response head may have, every 1xx before it included. Trailers and
            chunk extensions are refused when they go on for longer than that.
        heads: What is known of heads that came before.
        upgrade: The protocol that the request asks to switch to, in lower case. Default None: a
            101 is refused. With a 101 the body is whatever comes in the new protocol.

    Attributes:
        has_begun: Whether anything has arrived.
        keeps_alive: Whether the connection may be used again after this response.
        is_until_close: Whether the body goes on until the connection ends.
    """

    has_begun = False
    keeps_alive = False
    _parser: httptools.HttpResponseParser | None = None
    _head = b""
    _head_size = 0
    _fault: str | None = None
    _has_room = True
    #: Bytes of the body still to come, or -1 for all until the connection ends. None while only
    #: the parser can tell.
    _left: int | None = None
    #: Of a chunked body: bytes since the last that were content, and the last four of all.
    _overhead = 0
    _tail = b""

    def __init__(
        self,
        response: Http1Response,
        who: str,
        max_head: int,
        heads: Heads,
        upgrade: bytes | None = None,
    ) -> None:
        self._response = response
        self._who = who
        self._max_head = max_head
        self._heads = heads
        self._upgrade = upgrade

    @property
    def is_until_close(self) -> bool:
        return self._left == -1

    def read(self, data: bytes) -> bool:
        """Take what has arrived. Whether there is room for more.

        Raises:
            MalformedResponse: It is no response, or none that can be framed safely.
        """
        response = self._response
        if not response.status:
            data = self._read_known(data) if not self.has_begun else self._read_heads(data)
        if data:
            left = self._left
            if left is None:
                self._read_chunks(data)
            else:
                self._pass_on(data, left)
        if response.is_complete and self._fault is not None:
            # That does the message no harm; only the connection is spoilt.
            self.keeps_alive = False
        return self._has_room

    def close(self) -> None:
        """Read no more. The parser, which calls back, would hold what is held by the reader."""
        self._parser = None

    def _refused(self, fault: str) -> MalformedResponse:
        stage: Stage = "body" if self._response.status else "head"
        return MalformedResponse(f"{self._who} sent a bad response: {fault}", stage=stage)

    # The head.

    def _read_known(self, data: bytes) -> bytes:
        """Begin with a head that may have come before. Returns what comes after."""
        self.has_begun = True
        end = data.find(_END_OF_HEAD) + 4
        known = self._heads.get(data[:end]) if end <= self._max_head else None
        if known is None or self._response.method == "HEAD":
            return self._read_heads(data)
        status, headers, self._left, self.keeps_alive = known
        self._response.begin(status, headers)
        if not self._left:
            self._response.complete()
        return data[end:]

    def _read_heads(self, data: bytes) -> bytes:
        """Feed the parser the head, and every 1xx before it. Returns what comes after.

        The parser is never given more than a head: it does not tell where one ended, passes over
        line breaks between two messages, and knows nothing of HEAD.
        """
        if self._parser is None:
            self._expect_head()
        while data and not self._response.status:
            begun = self._head
            head = begun + data
            if head[0] != 0x48:
                # "H". The parser would take line breaks before it, RTSP and ICE as well.
                raise self._refused(f"it begins with {data[:8]!r}")
            end = head.find(_END_OF_HEAD, max(0, len(begun) - 3))
            rest = b""
            if end >= 0:
                rest = head[end + 4 :]
                head = head[: end + 4]
                data = head[len(begun) :]
            if self._head_size + len(head) > self._max_head:
                raise self._refused(f"head over {self._max_head} bytes")
            self._head = head
            # A bad head is refused as soon as it shows, not when it ends.
            self._parse(data)
            if end >= 0:
                self._end_head(head)
            data = rest
        return data

    def _expect_head(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""
        self._fields: RawHeaders = []
        self._framing: RawHeaders = []

    def _end_head(self, head: bytes) -> None:
        status = 0 if self._parser is None else self._parser.get_status_code()
        is_1_1 = head.startswith(b"HTTP/1.1 ")
        # A reason phrase may hold what a field value may (RFC 9112 §4).
        if head.translate(None, FIELD_TEXT).replace(b"\r\n", b""):
            raise self._refused("a control character, or CR or LF alone")
        if not (is_1_1 or head.startswith(b"HTTP/1.0 ")) or not 100 <= status <= 599:
            raise self._refused(f"status {status} of {head[:8]!r}")
        if status == 101:
            self._switch(is_1_1)
        elif status < 200:
            # Whatever it says of a body, it has none (RFC 9110 §15.2): a new parser will not
            # look for one.
            self._head_size += len(head)
            self._expect_head()
        else:
            self._begin(status, is_1_1, head)

    def _switch(self, is_1_1: bool) -> None:
        """Make sure that the protocol is the one that was asked for (RFC 9110 §7.8)."""
        connection: frozenset[bytes] = frozenset()
        protocols: frozenset[bytes] = frozenset()
        for name, value in self._framing:
            if name == b"connection":
                connection |= listed(value)
            elif name == b"upgrade":
                protocols |= listed(value)
        if self._upgrade is None:
            raise self._refused("switched protocols unasked")
        if not is_1_1 or b"upgrade" not in connection or protocols != {self._upgrade}:
            raise self._refused("switched to another protocol than was asked for")
        self._left, self._parser = -1, None
        dropped = not_end_to_end(connection, status=101)
        self._response.begin(101, [field for field in self._fields if field[0] not in dropped])

    def _begin(self, status: int, is_1_1: bool, head: bytes) -> None:
        """Work out where the body ends."""
        length: bytes | None = None
        is_chunked = False
        connection: frozenset[bytes] = frozenset()
        # Spaces behind a value count for nothing; over a tab some versions of the parser stumble.
        for name, value in self._framing:
            if name == b"content-length":
                if length is not None or not DIGITS.fullmatch(value.rstrip(b" ")):
                    raise self._refused(f"Content-Length {value!r}")
                length = value
            elif name == b"connection":
                connection |= listed(value)
            elif name == b"transfer-encoding":
                if is_chunked or value.rstrip(b" ").lower() != b"chunked" or not is_1_1:
                    raise self._refused(f"Transfer-Encoding {value!r}")
                is_chunked = True
        if is_chunked and length is not None:
            raise self._refused("both Transfer-Encoding and Content-Length")
        self.keeps_alive = b"close" not in connection and (is_1_1 or b"keep-alive" in connection)
        if self._response.method == "HEAD" or status in BODILESS:
            self._left = 0
        elif length is not None:
            self._left = int(length)
        elif not is_chunked:
            self._left, self.keeps_alive = -1, False
        headers = self._fields
        if self._left is None:
            # What may follow are trailers, which an ASGI server cannot send.
            self._fields, self._framing = [], []
        else:
            self._parser = None  # It waits for a body now, which it will not get to see.
        if dropped := not_end_to_end(connection, status=status):
            headers = [field for field in headers if field[0] not in dropped]
        if self._left is not None and self._response.method != "HEAD" and len(head) <= _LARGEST:
            self._heads.offer(head, ReadHead(status, headers, self._left, self.keeps_alive))
        self._response.begin(status, headers)
        if self._left == 0:
            self._response.complete()

    # The body.

    def _read_chunks(self, data: bytes) -> None:
        self._overhead += len(data)
        self._parse(data)
        if not self._response.is_complete:
            self._tail = data[-4:] if len(data) >= 4 else (self._tail + data)[-4:]
            if self._overhead > self._max_head:
                raise self._refused(f"trailers or extensions over {self._max_head} bytes")
        else:
            self._parser = None
            if not _ends_once((self._tail + data)[-5:]):
                self._fault = "bytes after the end of the response"

    def _pass_on(self, data: bytes, left: int) -> None:
        """Body bytes whose number is known need no parser."""
        size = len(data)
        if left < 0 or size < left:
            self._left = left if left < 0 else left - size
            self._has_room = self._response.feed(data)
            return
        if size > left:
            self._fault = "bytes after the end of the response"
        if left:
            self._left = 0
            self._response.finish(data[:left])

    # The parser and its callbacks.

    def _parse(self, data: bytes) -> None:
        if self._parser is None:  # pragma: no cover - there is one wherever this is called
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # A 101, which is judged when its head has been checked.
        except httptools.HttpParserError as exc:
            self._fault = self._fault or str(exc.__context__ or exc)
        if self._fault is not None and not self._response.is_complete:
            raise self._refused(self._fault)

    def on_message_begin(self) -> None:
        if self._response.status:
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
        if not self._response.is_complete:
            self._overhead = 0
            self._has_room = self._response.feed(body)

    def on_message_complete(self) -> None:
        # Of a 1xx and of a message whose length is known it says nothing new.
        if self._response.status and self._left is None:
            self._response.complete()

    def __repr__(self) -> str:
        return f"<ResponseReader of {self._response!r}>"


def _ends_once(last: bytes) -> bool:
    """Whether a chunked body's last five bytes end with one empty line, and not with more."""
    return last.endswith(_END_OF_HEAD) and last[:1] not in (b"\r", b"\n")
