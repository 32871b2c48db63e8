"""What backends are sent, against three readers: h11, llhttp, and the grammar of RFC 9112.

A reader that sees other messages than its neighbour is what request smuggling lives on. So all
that a backend receives, whatever a client has sent, must be the same requests to every one of
them. Rules for single requests are tested in `test_rules_framing.py`; this is about what they add
up to.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sticky_asgi import Gateway, Pool
from sticky_asgi.backend import Backend
from sticky_asgi.request import RawHeaders
from sticky_asgi.upstream.client import UpstreamRequest
from sticky_asgi.upstream.connections import Http1Client
from tests import servers
from tests.gateways import Front, gateway_before
from tests.test_rules_framing import call, scope_of
from tests.upstream.verdicts import FUZZ, SLOW_TO_FAIL, in_pieces, until


class Read(NamedTuple):
    """A request as a reader sees it; the last of a stream may not be whole."""

    method: str
    target: bytes
    headers: RawHeaders
    body: bytes
    is_whole: bool = True


class Unreadable(Exception):
    """A reader has refused it."""


# The readers


class H11Reader:
    """h11's server side, fed as the bytes come."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self.requests: list[Read] = []

    @property
    def is_between(self) -> bool:
        """Whether nothing has come after the last whole request."""
        is_whole = not self.requests or self.requests[-1].is_whole
        return is_whole and not self._connection.trailing_data[0]

    def feed(self, data: bytes) -> int:
        """Take bytes, and return how many requests have become whole by them."""
        connection, whole = self._connection, 0
        connection.receive_data(data)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as exc:
                raise Unreadable(f"h11: {exc}") from exc
            if isinstance(event, h11.Request):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                method = event.method.decode()
                self.requests.append(Read(method, bytes(event.target), headers, b"", False))
            elif isinstance(event, h11.Data):
                request = self.requests[-1]
                self.requests[-1] = request._replace(body=request.body + bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert not event.headers, "trailers"
                self.requests[-1] = self.requests[-1]._replace(is_whole=True)
                whole += 1
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                assert event is h11.NEED_DATA, event
                return whole


def by_h11(raw: bytes) -> list[Read]:
    reader = H11Reader()
    if raw:  # Or it would be the end of the stream.
        reader.feed(raw)
    return reader.requests


class LlhttpReader:
    """llhttp's server side."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.requests: list[Read] = []

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise Unreadable(f"llhttp: {exc!r}") from exc

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: RawHeaders = []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode()
        self.requests.append(Read(method, self._target, self._headers.copy(), b"", False))

    def on_body(self, data: bytes) -> None:
        self.requests[-1] = self.requests[-1]._replace(body=self.requests[-1].body + data)

    def on_message_complete(self) -> None:
        assert self._headers == self.requests[-1].headers, "trailers"
        self.requests[-1] = self.requests[-1]._replace(is_whole=True)


def by_llhttp(raw: bytes) -> list[Read]:
    reader = LlhttpReader()
    reader.feed(raw)
    return reader.requests


TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(
    rb"(?P<method>%b) (?P<target>[!-~]+) HTTP/1\.1\r\n(?P<fields>([^\r\n]+\r\n)*)\r\n" % TOKEN
)
FIELD = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*?)[ \t]*\r\n" % TOKEN)
CHUNK_LINE = re.compile(rb"([0-9a-f]{1,16})\r\n")


def by_grammar(raw: bytes) -> list[Read]:
    """A reader that forgives nothing: neither LF for CRLF nor any doubt about a body's length."""
    requests: list[Read] = []
    at = 0
    while b"\r\n\r\n" in raw[at:]:
        head = HEAD.match(raw, at)
        if head is None:
            raise Unreadable(f"no head: {raw[at : at + 200]!r}")
        headers: RawHeaders = []
        for line in re.findall(rb"[^\r\n]+\r\n", head["fields"]):
            field = FIELD.fullmatch(line)
            if field is None:
                raise Unreadable(f"no field: {line!r}")
            headers.append((field[1].lower(), field[2]))
        body, is_whole, at = _body_by_grammar(headers, raw, head.end())
        requests.append(Read(head["method"].decode(), head["target"], headers, body, is_whole))
        if not is_whole:
            break
    return requests


def _body_by_grammar(headers: RawHeaders, raw: bytes, at: int) -> tuple[bytes, bool, int]:
    framing = [field for field in headers if field[0] in (b"content-length", b"transfer-encoding")]
    if not framing:
        return b"", True, at
    ((name, value),) = framing
    if name == b"content-length":
        if not re.fullmatch(rb"[0-9]{1,18}", value):
            raise Unreadable(f"Content-Length {value!r}")
        end = at + int(value)
        return raw[at:end], end <= len(raw), end
    if value != b"chunked":
        raise Unreadable(f"Transfer-Encoding {value!r}")
    body = b""
    while line := CHUNK_LINE.match(raw, at):
        size, at = int(line[1], 16), line.end()
        body += raw[at : at + size]
        if raw[at + size : at + size + 2] != b"\r\n":
            if len(raw) >= at + size + 2:
                raise Unreadable("a chunk of another size")
            return body, False, at
        at += size + 2
        if not size:
            return body, True, at
    return body, False, at


#: llhttp has a list of methods; the others know that any token may be one.
KNOWN_TO_LLHTTP = [
    *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "REPORT"),
    *("M-SEARCH", "QUERY"),
]
METHODS = [*KNOWN_TO_LLHTTP, "FOO", "get", "G!#$%&'*+-.^_`|~09", "GETGET"]


def agreed(raw: bytes) -> list[Read]:
    """The requests that every reader sees. Raises when one refuses or sees others."""
    requests = by_h11(raw)
    assert by_grammar(raw) == requests
    if all(request.method in KNOWN_TO_LLHTTP for request in requests):
        assert by_llhttp(raw) == requests
    return requests


# What is no fault of the readers


GOOD = b"POST /a HTTP/1.1\r\nhost: b\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize("read", [by_h11, by_llhttp, by_grammar])
def test_the_readers_can_read(read: object) -> None:
    assert callable(read)
    chunked = GOOD.replace(b"content-length: 2", b"transfer-encoding: chunked")[:-2]
    chunked += b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
    host, length = (b"host", b"b"), (b"content-length", b"2")
    one = Read("POST", b"/a", [host, length], b"ok")
    two = Read("POST", b"/a", [host, (b"transfer-encoding", b"chunked")], b"ok")
    assert read(GOOD + chunked + GOOD) == [one, two, one]
    assert read(GOOD + chunked[:-5]) == [one, two._replace(is_whole=False)]
    assert read(GOOD + GOOD[:-1]) == [one, one._replace(body=b"o", is_whole=False)]
    with pytest.raises((Unreadable, ValueError)):
        read(GOOD + b"x\r\n\r\n")


# The transport


class Body:
    """A request body, at hand as a whole or in pieces."""

    def __init__(self, pieces: list[bytes], *, is_complete: bool) -> None:
        self.pieces = pieces
        self.complete = b"".join(pieces) if is_complete else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(0)
            yield piece

    def __repr__(self) -> str:
        return f"<Body {self.pieces} {'complete' if self.complete is not None else 'in pieces'}>"


#: Bytes of bodies that would like to be something else.
NASTY = [
    b"0\r\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n",
    b"5\r\nhello\r\n",
    b"a" * 16,
    b"\0",
]
PIECES = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(NASTY)), max_size=5)
NAMES = st.text("!#$%&'*+-.^_`|~09az", min_size=1, max_size=8).map(lambda n: b"x" + n.encode())
VALUES = (
    st.lists(st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09]), max_size=12)
    .map(bytes)
    .map(lambda value: value.strip(b" \t"))
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
TARGETS = st.lists(st.integers(0x21, 0x7E), max_size=12).map(lambda path: b"/" + bytes(path))


@st.composite
def upstream_requests(draw: st.DrawFn) -> UpstreamRequest:
    headers = draw(HEADERS)
    headers.insert(draw(st.integers(0, len(headers))), (b"host", b"shop"))
    method, target = draw(st.sampled_from(METHODS)), draw(TARGETS)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        return UpstreamRequest(method, target, headers)
    pieces = draw(PIECES)
    field = (b"transfer-encoding", b"chunked")
    if framing == "length":
        field = (b"content-length", b"%d" % len(b"".join(pieces)))
    headers.insert(draw(st.integers(0, len(headers))), field)
    body = Body(pieces, is_complete=draw(st.booleans()))
    return UpstreamRequest(method, target, headers, body)


def meant(request: UpstreamRequest) -> Read:
    body = b"".join(request.body.pieces) if isinstance(request.body, Body) else b""
    return Read(request.method, request.target, request.headers, body)


class Recorder(asyncio.Protocol):
    """A server's end of a connection: it keeps what came, and answers what is whole."""

    transport: asyncio.Transport

    def __init__(self, links: list[Recorder]) -> None:
        self._links = links
        self.reader = H11Reader()
        self.raw = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._links.append(self)

    def data_received(self, data: bytes) -> None:
        self.raw += data
        for _ in range(self.reader.feed(data)):
            self.transport.write(b"HTTP/1.1 204 N\r\n\r\n")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@settings(SLOW_TO_FAIL, max_examples=150)
@given(requests=st.lists(upstream_requests(), min_size=1, max_size=4))
def test_what_the_transport_writes_is_read_as_it_is_meant(
    runner: asyncio.Runner, requests: list[UpstreamRequest]
) -> None:
    async def main() -> list[Recorder]:
        links: list[Recorder] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Recorder(links), "127.0.0.1", 0)
        client = Http1Client(Backend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        async with asyncio.timeout(5):
            for request in requests:
                response = await client.send(request)
                assert (response.status, await response.read()) == (204, b"")
                await response.aclose()
        await client.aclose()
        server.close()
        await until(lambda: all(link.transport.is_closing() for link in links))
        return links

    links = runner.run(main())
    read = [request for link in links for request in agreed(link.raw)]
    assert read == [meant(request) for request in requests]
    if all(request.body is None or request.body.complete is not None for request in requests):
        # Else an answer may have come before the end of a body was known.
        assert len(links) == 1


# The gateway, before a backend that keeps every byte


class Recording:
    """What one connection of a backend has received. Its thread writes it, the test's reads it."""

    def __init__(self) -> None:
        self.raw = b""
        self.is_over = False
        self._reader = H11Reader()
        self._taken = 0
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> int:
        """Take bytes, and return how many requests have become whole by them."""
        with self._lock:
            self.raw += data
            return self._reader.feed(data)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come without another request."""
        return self.is_over or self._reader.is_between

    def take(self) -> bytes:
        """What has come since last asked: always from the beginning of a request."""
        with self._lock:
            if not self.is_settled:
                return b""
            new, self._taken = self.raw[self._taken :], len(self.raw)
            return new


class Stage(NamedTuple):
    """A gateway, and all that its backend has received."""

    front: Front
    recordings: list[Recording]

    def received(self) -> list[Read]:
        """What has come since last asked, of all connections: every reader agrees on it."""
        servers.eventually(
            lambda: (
                self.front.pool.in_flight == 0
                and all(recording.is_settled for recording in self.recordings)
            )
        )
        requests = []
        for recording in self.recordings:
            requests += agreed(recording.take())
        return requests

    def exchange(self, pieces: Iterable[bytes], *, patience: float = servers.WAIT) -> bytes:
        """Send bytes, and return everything that came back until the connection was closed."""
        answer = b""
        with servers.RawClient(self.front.port, timeout=patience) as client:
            for piece in pieces:
                try:
                    client.send(piece)
                except ConnectionError:
                    break
            try:
                while data := client.recv():
                    answer += data
            except TimeoutError:
                if patience == servers.WAIT:
                    raise
        return answer


@contextmanager
def staged(http: servers.HttpImplementation) -> Iterator[Stage]:
    recordings: list[Recording] = []

    def handler(connection: servers.Connection) -> None:
        recording = Recording()
        recordings.append(recording)
        try:
            while data := connection.recv():
                for _ in range(recording.feed(data)):
                    connection.send(b"HTTP/1.1 204 N\r\n\r\n")
        finally:
            recording.is_over = True

    with gateway_before(handler, http=http) as front:
        yield Stage(front, recordings)
    for recording in recordings:
        assert all(request.is_whole for request in agreed(recording.raw)[:-1])


@pytest.fixture(scope="module")
def stage(front_http: servers.HttpImplementation) -> Iterator[Stage]:
    with staged(front_http) as stage:
        yield stage


Said = tuple[str, bytes, bytes]  # Method, target and body.


def heard(requests: Iterable[Read]) -> list[Said]:
    return [(r.method, r.target, r.body) for r in requests if r.is_whole]


def statuses(answer: bytes) -> list[int]:
    """Statuses of responses that have no bodies but short ones of text."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5][0-9]{2}) ", answer)]


class Trick(NamedTuple):
    """Bytes from a client.

    Attributes:
        raw: The bytes.
        forwarded: What may be made of them, if they are not refused; of that, less may be.
        must: Whether they must not be refused, for nothing is wrong with them.
        stalls: Whether a server may wait for more of them.
    """

    raw: bytes
    forwarded: tuple[Said, ...] = ()
    must: bool = False
    stalls: bool = False


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
LAST = b"0\r\n\r\n"
HELLO = b"5\r\nhello\r\n" + LAST


def post(*fields: bytes, body: bytes = b"", target: bytes = b"/") -> bytes:
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: test", *fields, b"", body])


def lines(first: bytes) -> bytes:
    return first + b"\r\nHost: test\r\n\r\n"


def coded(*fields: bytes) -> Trick:
    """A body that hides a request from whoever sees the length, or from whoever does not."""
    body = LAST + SMUGGLED
    return Trick(post(b"Content-Length: %d" % len(body), *fields, body=body))


def chunks(body: bytes, *forwarded: Said, stalls: bool = False) -> Trick:
    raw = post(b"Transfer-Encoding: chunked", body=body + LAST + SMUGGLED)
    return Trick(raw, forwarded, stalls=stalls)


def sized(*fields: bytes) -> Trick:
    return Trick(post(*fields, body=SMUGGLED))


GOT = ("GET", b"/", b"")
POSTED = ("POST", b"/", b"hello")
SECOND = post(b"Content-Length: 5", body=b"again", target=b"/2")
THEN = ("POST", b"/2", b"again")
WHOLE = b"Content-Length: %d" % len(LAST + SMUGGLED)

TRICKS = {
    # Both a length and something like a coding: TE.CL, CL.TE and TE.TE.
    "te-case": coded(b"TRANSFER-ENCODING: CHUNKED"),
    "te-no-space": coded(b"Transfer-Encoding:chunked"),
    "te-tab": coded(b"Transfer-Encoding:\tchunked\t"),
    "te-twice": coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
    "te-twice-reversed": coded(b"Transfer-Encoding: x", b"Transfer-Encoding: chunked"),
    "te-then-identity": coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "te-list": coded(b"Transfer-Encoding: identity, chunked"),
    "te-list-reversed": coded(b"Transfer-Encoding: chunked, identity"),
    "te-list-empty": coded(b"Transfer-Encoding: , chunked"),
    "te-parameter": coded(b"Transfer-Encoding: chunked;q=1"),
    "te-quoted": coded(b'Transfer-Encoding: "chunked"'),
    "te-torn": coded(b"Transfer-Encoding: chunk ed"),
    "te-prefix": coded(b"Transfer-Encoding: chunkedfoo"),
    "te-empty": coded(b"Transfer-Encoding:"),
    "te-vertical-tab": coded(b"Transfer-Encoding:\x0bchunked"),
    "te-form-feed": coded(b"Transfer-Encoding: chunked\x0c"),
    "te-no-break-space": coded(b"Transfer-Encoding:\xa0chunked"),
    "te-nul": coded(b"Transfer-Encoding: chunked\0"),
    "te-space-colon": coded(b"Transfer-Encoding : chunked"),
    "te-tab-colon": coded(b"Transfer-Encoding\t: chunked"),
    "te-nul-colon": coded(b"Transfer-Encoding\0: chunked"),
    "te-lf-colon": coded(b"Transfer-Encoding\n: chunked"),
    "te-cr-colon": coded(b"Transfer-Encoding\r: chunked"),
    "te-obs-text-colon": coded(b"Transfer-Encoding\xff: chunked"),
    "te-folded": coded(b"Transfer-Encoding:\r\n chunked"),
    "te-behind-lf": coded(b"X: y\nTransfer-Encoding: chunked"),
    "te-behind-cr": coded(b"X: y\rTransfer-Encoding: chunked"),
    "te-behind-lf-name": coded(b"X\nTransfer-Encoding: chunked"),
    "te-underscore": Trick(
        post(WHOLE, b"Transfer_Encoding: chunked", body=LAST + SMUGGLED),
        (("POST", b"/", LAST + SMUGGLED),),
    ),
    "te-in-a-fold": Trick(
        post(WHOLE, b"X: y\r\n Transfer-Encoding: chunked", body=LAST + SMUGGLED),
        (("POST", b"/", LAST + SMUGGLED),),
    ),
    "te-as-an-option": Trick(
        post(WHOLE, b"Connection: Transfer-Encoding", body=LAST + SMUGGLED),
        (("POST", b"/", LAST + SMUGGLED),),
        must=True,
    ),
    "te-option-of-chunked": Trick(
        post(b"Transfer-Encoding: chunked", b"Connection: Transfer-Encoding", body=HELLO),
        (POSTED,),
        must=True,
    ),
    # Lengths.
    "cl-twice": sized(b"Content-Length: %d" % len(SMUGGLED), b"Content-Length: 0"),
    "cl-twice-reversed": sized(b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED)),
    "cl-list": sized(b"Content-Length: %d, 0" % len(SMUGGLED)),
    "cl-space-colon": sized(b"Content-Length : %d" % len(SMUGGLED)),
    "cl-behind-lf": sized(b"Content-Length: 0", b"X: y\nContent-Length: %d" % len(SMUGGLED)),
    "cl-behind-cr": sized(b"Content-Length: 0", b"X: y\rContent-Length: %d" % len(SMUGGLED)),
    "cl-plus": sized(b"Content-Length: +%d" % len(SMUGGLED)),
    "cl-nul": sized(b"Content-Length: %d\0" % len(SMUGGLED)),
    "cl-vertical-tab": sized(b"Content-Length:\x0b%d" % len(SMUGGLED)),
    "cl-superscript": sized(b"Content-Length: \xb2"),
    "cl-overflow": sized(b"Content-Length: %d" % (2**64 + len(SMUGGLED))),
    "cl-zeros": Trick(post(b"Content-Length: 0005", body=b"hello"), (POSTED,), must=True),
    "cl-as-an-option": Trick(
        post(b"Content-Length: 5", b"Connection: Content-Length", body=b"hello"),
        (POSTED,),
        must=True,
    ),
    "cl-on-get": Trick(
        lines(b"GET / HTTP/1.1")[:-2] + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        (("GET", b"/", SMUGGLED),),
        must=True,
    ),
    "cl-on-head": Trick(
        lines(b"HEAD / HTTP/1.1")[:-2] + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        (("HEAD", b"/", SMUGGLED),),
        must=True,
    ),
    "cl-with-expect": Trick(
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"), (POSTED,), must=True
    ),
    "cl-folded-away": Trick(
        post(b"X: y\r\n Content-Length: %d" % len(SMUGGLED)), (("POST", b"/", b""),)
    ),
    # Chunks.
    "chunk-extension-lf": chunks(b"5;a\nhello\r\n"),
    "chunk-extension-cr": chunks(b"5;a\rhello\r\n"),
    "chunk-extension-lf-size": chunks(b"2;\n0005\r\nhello\r\n"),
    "chunk-size-lf": chunks(b"5\nhello\r\n"),
    "chunk-size-cr": chunks(b"5\rhello\r\n"),
    "chunk-size-space": chunks(b"5 5\r\nhello\r\n"),
    "chunk-size-comma": chunks(b"5,5\r\nhello\r\n"),
    # h11 takes 20 digits for what they are and waits for as many bytes.
    "chunk-size-overflow": chunks(b"1" + b"0" * 15 + b"5\r\nhello\r\n", stalls=True),
    "chunk-size-overflow-to-zero": chunks(
        b"5\r\nhello\r\n1" + b"0" * 16 + b"\r\n\r\n", stalls=True
    ),
    "chunk-size-zero-hex": chunks(b"5\r\nhello\r\n0x0\r\n\r\n"),
    "chunk-size-minus-zero": chunks(b"5\r\nhello\r\n-0\r\n\r\n"),
    "chunk-end-missing": chunks(b"5\r\nhello"),
    "chunk-end-lf": chunks(b"5\r\nhello\n"),
    "chunk-end-other": chunks(b"5\r\nhelloXX"),
    "chunk-end-cr-cr": chunks(b"5\r\nhello\r\r"),
    "chunk-trailer-lf": chunks(b"5\r\nhello\r\n0\r\nX: y\n\n", POSTED),
    "chunk-trailer-space": chunks(b"5\r\nhello\r\n0\r\nX : y\r\n"),
    "chunk-trailer-nul": chunks(b"5\r\nhello\r\n0\r\nX: \0\r\n"),
    "chunks-of-a-request": Trick(
        post(
            b"Transfer-Encoding: chunked",
            body=b"%x\r\n%s\r\n%s" % (len(SMUGGLED), SMUGGLED, LAST),
        ),
        (("POST", b"/", SMUGGLED),),
        must=True,
    ),
    "chunks-extended": Trick(
        post(b"Transfer-Encoding: chunked", body=b'5;a;b=c;d="e;f"\r\nhello\r\n0;g\r\n\r\n'),
        (POSTED,),
        must=True,
    ),
    "chunk-trailers-that-frame": Trick(
        post(
            b"Transfer-Encoding: chunked",
            body=HELLO[:-2] + b"Content-Length: 9\r\nTransfer-Encoding: x\r\n\r\n",
        ),
        (POSTED,),
    ),
    "chunk-trailers-of-another-host": Trick(
        post(b"Transfer-Encoding: chunked", body=HELLO[:-2] + b"X-Forwarded-For: 1\r\n\r\n"),
        (POSTED,),
    ),
    # Request lines.
    "target-space": Trick(lines(b"GET /a b HTTP/1.1")),
    "target-version": Trick(lines(b"GET /smuggled HTTP/1.1 HTTP/1.1")),
    "target-tab": Trick(lines(b"GET /a\tb HTTP/1.1")),
    "target-nul": Trick(lines(b"GET /a\0b HTTP/1.1")),
    "target-delete": Trick(lines(b"GET /a\x7fb HTTP/1.1")),
    "target-obs-text": Trick(lines(b"GET /a\xe4b HTTP/1.1")),
    "target-cr": Trick(lines(b"GET /a\rb HTTP/1.1")),
    "target-lf": Trick(lines(b"GET /a\nb HTTP/1.1")),
    "target-empty": Trick(lines(b"GET  HTTP/1.1")),
    "target-relative": Trick(lines(b"GET smuggled HTTP/1.1")),
    # uvicorn's httptools protocol makes a path of it.
    "target-absolute": Trick(lines(b"GET http://other/ HTTP/1.1"), (GOT,)),
    "target-absolute-same": Trick(lines(b"GET http://test/ HTTP/1.1"), (GOT,)),
    "target-authority": Trick(lines(b"GET other:80 HTTP/1.1")),
    "target-escaped-line": Trick(
        lines(b"GET /%20HTTP/1.1%0d%0aX:%20y HTTP/1.1"),
        (("GET", b"/%20HTTP/1.1%0d%0aX:%20y", b""),),
        must=True,
    ),
    "method-space": Trick(lines(b"GET\t/a HTTP/1.1")),
    "method-two-spaces": Trick(lines(b"GET  / HTTP/1.1"), (GOT,)),
    "method-colon": Trick(lines(b"G:T /a HTTP/1.1")),
    "method-none": Trick(lines(b" /a HTTP/1.1")),
    "method-preface": Trick(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # uvicorn tells the application of a version it does not speak; a backend sees 1.1 all the same.
    "version-0.9": Trick(b"GET /\r\n\r\n", (GOT,)),
    "version-0.9-said-so": Trick(lines(b"GET / HTTP/0.9"), (GOT,)),
    "version-2.0": Trick(lines(b"GET / HTTP/2.0"), (GOT,)),
    "version-1.10": Trick(lines(b"GET / HTTP/1.10")),
    "version-then-more": Trick(lines(b"GET / HTTP/1.1x")),
    "version-none-but-fields": Trick(lines(b"GET /"), (GOT,)),
    "version-lower-case": Trick(lines(b"GET / http/1.1")),
    "lf-only": Trick(b"GET / HTTP/1.1\nHost: test\n\n", (GOT,)),
    "lf-only-then-crlf": Trick(
        b"POST / HTTP/1.1\nHost: test\nContent-Length: 5\n\r\nhello", (POSTED,)
    ),
    "line-break-first": Trick(b"\r\n" + post(b"Content-Length: 5", body=b"hello"), (POSTED,)),
    # Fields.
    "name-lf": Trick(post(b"X\nY: z")),
    "name-behind-nul": Trick(post(b"\0X: z")),
    "name-quoted": Trick(post(b'"Host": other')),
    "value-lf-host": Trick(post(b"X: y\nHost: other")),
    # h11 takes LF for a line's end (RFC 9112 §2.2): these are two requests, and go out as two.
    "value-cr-lf-lf": Trick(post(b"X: y\r\n\n" + SECOND), (("POST", b"/", b""), THEN)),
    "value-lf-lf": Trick(post(b"X: y\n\n" + SECOND), (("POST", b"/", b""), THEN)),
    "host-fold": Trick(b"GET / HTTP/1.1\r\nHost:\r\n other\r\n\r\n", (GOT,)),
    "host-with-path": Trick(b"GET / HTTP/1.1\r\nHost: test/smuggled\r\n\r\n"),
    "host-with-user": Trick(b"GET / HTTP/1.1\r\nHost: a@test\r\n\r\n"),
    "host-as-an-option": Trick(post(b"Connection: host"), (("POST", b"/", b""),), must=True),
    "upgrade-h2c": Trick(
        post(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Content-Length: 5",
            body=b"hello",
        ),
        (POSTED,),
    ),
    # One behind another.
    "pipelined": Trick(
        post(b"Content-Length: 5", body=b"hello") + SECOND, (POSTED, THEN), must=True
    ),
    "pipelined-chunks": Trick(
        post(b"Transfer-Encoding: chunked", body=HELLO) + SECOND, (POSTED, THEN), must=True
    ),
    "pipelined-no-bodies": Trick(
        lines(b"GET /a HTTP/1.1") + lines(b"HEAD /b HTTP/1.1") + SECOND,
        (("GET", b"/a", b""), ("HEAD", b"/b", b""), THEN),
        must=True,
    ),
    "pipelined-1.0": Trick(
        post(b"Content-Length: 5", b"Connection: keep-alive", body=b"hello").replace(
            b"/1.1", b"/1.0", 1
        )
        + SECOND,
        (POSTED, THEN),
    ),
    "pipelined-behind-a-line-break": Trick(
        post(b"Content-Length: 5", body=b"hello") + b"\r\n" + SECOND, (POSTED, THEN)
    ),
    "pipelined-behind-junk": Trick(
        post(b"Content-Length: 5", body=b"hello") + b"x" + SECOND,
        (POSTED, ("xPOST", b"/2", b"again")),
    ),
    "pipelined-behind-close": Trick(
        post(b"Content-Length: 5", b"Connection: close", body=b"hello") + SMUGGLED, (POSTED,)
    ),
}


@pytest.mark.parametrize("trick", [pytest.param(trick, id=id) for id, trick in TRICKS.items()])
def test_a_trick_is_refused_or_forwarded_as_what_it_says(stage: Stage, trick: Trick) -> None:
    """And what is refused is the end of the connection."""
    closing = b"GET /end HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    patience = 0.2 if trick.stalls else servers.WAIT
    answer = stage.exchange([trick.raw + closing], patience=patience)
    received = heard(stage.received())
    is_refused = ("GET", b"/end", b"") not in received
    said = received if is_refused else received[: received.index(("GET", b"/end", b""))]
    assert tuple(said) == trick.forwarded[: len(said)], answer
    if is_refused:
        assert not trick.must, answer
        found = statuses(answer)
        assert found[: len(said)] == [204] * len(said)
        assert all(400 <= status < 500 for status in found[len(said) :]), answer
    else:
        assert tuple(received) == (*trick.forwarded, ("GET", b"/end", b""))
        assert statuses(answer) == [204] * len(received)


# Generated requests


@st.composite
def client_requests(draw: st.DrawFn) -> tuple[bytes, Read]:
    """A request as a client may send it, and what of it a backend must see."""
    method, target = draw(st.sampled_from(KNOWN_TO_LLHTTP)), draw(TARGETS)
    headers = draw(HEADERS)
    body = b"".join(pieces := draw(PIECES))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    sent = [*headers]
    payload = b""
    if framing == "length":
        payload = body
        sent.insert(draw(st.integers(0, len(sent))), (b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        extension = draw(st.sampled_from([b"", b";a", b';a="b;c"']))
        for piece in pieces:
            payload += b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) if piece else b""
        payload += b"0%s\r\n\r\n" % extension
        sent.insert(draw(st.integers(0, len(sent))), (b"Transfer-Encoding", b"Chunked"))
    else:
        body = b""
    sent.insert(draw(st.integers(0, len(sent))), (b"Host", b"test"))
    space = draw(st.sampled_from([b" ", b"", b" \t"]))
    fields = b"".join(b"%s:%s%s\r\n" % (name, space, value) for name, value in sent)
    raw = b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method.encode(), target, fields, payload)
    return raw, Read(method, target, headers, body)


@settings(SLOW_TO_FAIL, max_examples=100)
@given(
    requests=st.lists(client_requests(), min_size=1, max_size=3),
    ends=st.sets(st.integers(0, 1000), max_size=3),
)
def test_what_clients_send_is_what_backends_read(
    stage: Stage, requests: list[tuple[bytes, Read]], ends: set[int]
) -> None:
    """Whether they come in one packet or in pieces, one behind the other without waiting."""
    closing = b"GET /end HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    raw = b"".join(raw for raw, _ in requests)
    answer = stage.exchange(in_pieces(raw + closing, ends), patience=5)
    received = stage.received()
    assert statuses(answer) == [204] * (len(requests) + 1)
    assert heard(received[-1:]) == [("GET", b"/end", b"")]
    for (_, said), read in zip(requests, received, strict=False):
        own = [field for field in read.headers if field in said.headers]
        target = as_uvicorn_has_it(said.target, stage.front.http)
        assert read == said._replace(headers=read.headers, target=target)
        assert own == said.headers
    assert len(received) == len(requests) + 1


def as_uvicorn_has_it(target: bytes, http: servers.HttpImplementation) -> bytes:
    """It loses an empty query and, with httptools, a fragment."""
    if http != "h11":
        target = target.partition(b"#")[0]
    path, _, query = target.partition(b"?")
    return path + b"?" + query if query else path


ACCIDENTS = [
    *(bytes([byte]) for byte in b'\0\x01\t\n\x0b\r ",+-0159:;=af\x7f\xff'),
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"0x",
    LAST,
    b" HTTP/1.1\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"Connection: content-length, host\r\n",
    b"Host: other\r\n",
    SMUGGLED,
]


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    raw = b"".join(raw for raw, _ in draw(st.lists(client_requests(), min_size=1, max_size=2)))
    marks = [0, *(match.end() for match in re.finditer(rb"\r\n|[:;, ]", raw)), len(raw)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(marks))
        size = draw(st.sampled_from([0, 0, 1, 2, 5]))
        raw = raw[:at] + draw(st.sampled_from([b"", *ACCIDENTS])) + raw[at + size :]
    return raw


@settings(FUZZ, max_examples=200)
@given(raw=broken_requests(), ends=st.sets(st.integers(0, 1000), max_size=3))
def test_whatever_clients_send_all_readers_agree_on_what_backends_got(
    stage: Stage, raw: bytes, ends: set[int]
) -> None:
    # More line ends than any unfinished head or trailer needs, and no body of their length.
    closing = b"\r\n\r\nGET /end HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    stage.exchange(in_pieces(raw + closing, ends), patience=0.1)
    for request in stage.received():
        names = [name for name, _ in request.headers]
        assert names.count(b"host") == 1
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1


# Other servers than uvicorn


#: What HTTP/2 can carry, and HTTP/1.1 cannot: a server may leave it to the application to look.
EVIL = st.sampled_from(
    [
        b"a\r\nTransfer-Encoding: chunked",
        b"a\nb: c",
        b"a\rb",
        b"a\0",
        b"a b",
        b"a:",
        b":path",
        b"",
        b" a",
        b"a\r\n\r\n" + SMUGGLED,
        b"\x7f",
    ]
)
FRAMING = st.sampled_from(
    [
        (b"content-length", b"5"),
        (b"content-length", b"0"),
        (b"content-length", b"5, 5"),
        (b"content-length", b"+5"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"gzip"),
        (b"Transfer-Encoding", b"chunked"),
        (b"transfer_encoding", b"chunked"),
        (b"connection", b"content-length, transfer-encoding, host"),
        (b"te", b"trailers"),
        (b"trailer", b"content-length"),
        (b"upgrade", b"h2c"),
        (b"expect", b"100-continue"),
        (b"host", b"test"),
        (b"cookie", b"a=b"),
    ]
)
#: Mostly nothing is wrong with a part, or nothing would get through.
FIELDS = st.lists(
    st.one_of(
        st.tuples(NAMES, VALUES),
        FRAMING,
        FRAMING,
        st.tuples(EVIL, VALUES),
        st.tuples(NAMES, EVIL),
    ),
    max_size=4,
)


@settings(SLOW_TO_FAIL, max_examples=200)
@given(
    version=st.sampled_from(["1.0", "1.1", "2", "3"]),
    method=st.sampled_from(["GET", "POST", "G T", "GET / HTTP/1.1\r\nX:", "", *KNOWN_TO_LLHTTP]),
    path=st.one_of(TARGETS, EVIL.map(lambda evil: b"/" + evil)),
    query=st.one_of(st.just(b""), TARGETS, EVIL),
    headers=FIELDS,
    pieces=PIECES,
)
def test_whatever_an_asgi_server_passes_on_all_readers_agree_on_what_backends_got(
    runner: asyncio.Runner,
    version: str,
    method: str,
    path: bytes,
    query: bytes,
    headers: RawHeaders,
    pieces: list[bytes],
) -> None:
    told = {"path": path.decode("latin-1"), "raw_path": path, "query_string": query}
    scope = {**scope_of(version, method, *headers), **told}
    links: list[Recorder] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Recorder(links), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Gateway({"/": Pool("shop", [url])}) as gateway:
            status, _ = await call(gateway, scope, pieces or [b""])
        server.close()
        await until(lambda: all(link.transport.is_closing() for link in links))
        return status

    status = runner.run(main())
    requests = [request for link in links for request in agreed(link.raw)]
    assert len(requests) <= 1
    if status == 204:
        (request,) = requests
        target = path + b"?" + query if query else path
        assert (request.method, request.target, request.is_whole) == (method, target, True)
        assert request.body in (b"", b"".join(pieces))
    else:
        assert status == 400
        assert not any(request.is_whole for request in requests)
