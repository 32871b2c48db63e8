"""Rules 12 to 19 over real sockets: where messages begin and end, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterable, Iterator

import pytest
from starlette.types import Message, Scope

from sticky_asgi import Gateway, Pool
from tests import servers
from tests.gateways import Front, Lane, gateway_before, transport_of
from tests.servers import (
    LAST_CHUNK,
    Connection,
    HttpImplementation,
    RawBackend,
    RawClient,
    chunk,
    responding,
    response,
)

#: What a plain request has at the backend.
PLAIN = [
    (b"host", b"test"),
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"test"),
    (b"x-forwarded-port", b"80"),
]
CHUNKED = (b"transfer-encoding", b"chunked")


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """A POST with these header lines, as bytes."""
    lines = [b"POST / HTTP/" + version, b"Host: test", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


#: Behind what is refused comes a request that no backend must ever see.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


# Refused requests


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=LAST_CHUNK + SMUGGLED),
            id="te-and-cl",
        ),
        pytest.param(
            post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST_CHUNK + SMUGGLED),
            id="cl-and-te",
        ),
        pytest.param(
            post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"), id="unequal-lengths"
        ),
        pytest.param(post(b"Content-Length: 5, 6", body=b"hello!"), id="unequal-list"),
        pytest.param(post(b"Content-Length: +5", body=b"hello"), id="length-plus"),
        pytest.param(post(b"Content-Length: -5", body=b"hello"), id="length-minus"),
        pytest.param(post(b"Content-Length: 0x5", body=b"hello"), id="length-hex"),
        pytest.param(post(b"Content-Length: 5_0", body=b"hello"), id="length-underscore"),
        pytest.param(post(b"Content-Length: 5.0", body=b"hello"), id="length-point"),
        pytest.param(post(b"Content-Length: 5 5", body=b"hello"), id="length-space"),
        pytest.param(post(b"Content-Length: five", body=b"hello"), id="length-word"),
        pytest.param(post(b"Content-Length:", body=b"hello"), id="length-empty"),
        pytest.param(post(b"Content-Length: " + b"9" * 30, body=b"hello"), id="length-huge"),
        pytest.param(
            post(b"Transfer-Encoding: gzip, chunked", body=LAST_CHUNK), id="another-coding"
        ),
        pytest.param(post(b"Transfer-Encoding: identity"), id="identity"),
        pytest.param(post(b"Transfer-Encoding: xchunked", body=LAST_CHUNK), id="xchunked"),
        pytest.param(post(b"Transfer-Encoding: \x0bchunked", body=LAST_CHUNK), id="vt-chunked"),
        pytest.param(post(b"Transfer-Encoding : chunked", body=LAST_CHUNK), id="space-colon"),
        pytest.param(
            post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=LAST_CHUNK),
            id="chunked-twice",
        ),
        pytest.param(
            post(b"Transfer-Encoding: chunked", body=LAST_CHUNK, version=b"1.0"),
            id="chunked-in-1.0",
        ),
        pytest.param(post(b"X\x01Y: 1"), id="name-control"),
        pytest.param(post(b"X\x00: 1"), id="name-nul"),
        pytest.param(post(b"X Y: 1"), id="name-space"),
        pytest.param(post(b"X\xe4: 1"), id="name-not-ascii"),
        pytest.param(post(b": 1"), id="no-name"),
        pytest.param(post(b"X"), id="no-colon"),
        pytest.param(post(b"X: a\x00b"), id="value-nul"),
        pytest.param(post(b"X: a\x01b"), id="value-control"),
        pytest.param(post(b"X: a\x1bb"), id="value-escape"),
        pytest.param(post(b"X: a\x7fb"), id="value-delete"),
        pytest.param(post(b"X: a\rb"), id="value-carriage-return"),
        pytest.param(b"GET / HTTP/1.1\r\n X: 1\r\nHost: test\r\n\r\n", id="space-first"),
    ],
)
def test_rule_12_malformed_requests_are_refused_and_never_forwarded(
    front: Front, data: bytes
) -> None:
    front.assert_refused(data, 400)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"X: " + b"a" * 65536, id="one-field"),
        pytest.param(b"\r\n".join([b"X-Field: aaaaaaaaaaaaaaaaaaaa"] * 2400), id="many-fields"),
        pytest.param(b"\r\n".join([b"X:"] * 17000), id="many-empty-fields"),
    ],
)
def test_rule_12_a_head_over_64_kib_is_431(front: Front, data: bytes) -> None:
    """h11 refuses by itself, with 400, what has not arrived whole when it looks at 64 KiB."""
    statuses = (431,) if front.http != "h11" else (431, 400)
    front.assert_refused(b"GET / HTTP/1.1\r\nHost: test\r\n" + data + b"\r\n\r\n", *statuses)


def test_rule_12_a_target_over_64_kib_is_refused(lane: Lane) -> None:
    """It counts as the head it is part of. (httptools has a limit of its own for URLs.)"""
    with gateway_before(http="h11", lane=lane) as front:
        target = b"/" + b"a" * 65536
        front.assert_refused(b"GET " + target + b" HTTP/1.1\r\nHost: test\r\n\r\n", 400, 431)


def test_rule_12_a_head_within_the_limit_is_passed(front: Front) -> None:
    fields = [(b"x-%d" % number, b"a" * 1000) for number in range(50)]
    assert front.received("GET", b"/", fields).headers[1:-4] == fields


def test_rule_12_a_line_that_is_folded(front: Front) -> None:
    """h11 unfolds it, as RFC 9112 §5.2 allows; httptools refuses it."""
    data = b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n  b\r\nY: 1\r\n\r\n"
    if front.http != "h11":
        front.assert_refused(data, 400)
        return
    with RawClient(front.port) as client:
        client.send(data)
        assert client.read_response().status == 200
    expected = [PLAIN[0], (b"x", b"a b"), (b"y", b"1"), *PLAIN[1:]]
    assert front.backend.requests[-1].headers == expected


def test_rule_12_equal_content_lengths_are_one_or_refused(front: Front) -> None:
    """h11 makes one of them, httptools refuses them: two never arrive."""
    fields = [(b"Content-Length", b"5"), (b"Content-Length", b"5")]
    if front.http != "h11":
        front.assert_refused(servers.encode_request("POST", b"/", fields, b"hello"), 400)
        return
    request = front.received("POST", b"/", fields, b"hello")
    assert (request.get(b"content-length"), request.body) == (b"5", b"hello")


def body_of(request: servers.RawRequest) -> bytes:
    """What came after the head, byte for byte."""
    return request.raw[len(request.head) :]


BAD_CHUNKS = (
    b"zz\r\nhello\r\n",
    b"-1\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"f" * 25 + b"\r\nhello\r\n",
    b"\r\nhello\r\n",
    b"5\r\nhello!!\r\n",
)


@pytest.mark.parametrize("is_later", [False, True], ids=["at-once", "later"])
def test_rule_12_a_bad_chunk_never_looks_like_the_end_of_a_body(
    http: HttpImplementation, lane: Lane, is_later: bool
) -> None:
    """The server calls the application before it looks at the body, so the backend may have seen
    a head. It sees the connection end, and never the last chunk."""
    with gateway_before(http=http, lane=lane) as front:
        for number, bad in enumerate(BAD_CHUNKS):
            with RawClient(front.port) as client:
                start = post(b"Transfer-Encoding: chunked", body=chunk(b"first"))
                if is_later:
                    client.send(start)
                    front.backend.wait_request(number)
                    start = b""
                client.send(start + bad + LAST_CHUNK + SMUGGLED)
                assert client.read_response().status == 400
                client.wait_closed()
            servers.eventually(lambda: front.pool.in_flight == 0)
        backend = front.backend
    # All connections have been read to their ends by now.
    for request in backend.requests:
        assert request.target == b"/"
        assert not request.complete
        assert LAST_CHUNK not in body_of(request)
    assert len(backend.requests) <= len(BAD_CHUNKS)


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        pytest.param(b"Content-Length: 10", b"hello", id="length"),
        pytest.param(b"Transfer-Encoding: chunked", chunk(b"hello"), id="chunked"),
    ],
)
def test_rule_12_a_body_that_breaks_off_never_looks_complete(
    front: Front, framing: bytes, part: bytes
) -> None:
    seen = len(front.backend.requests)
    with RawClient(front.port) as client:
        client.send(post(framing, body=part))
        request = front.backend.wait_request(seen)
        servers.eventually(lambda: body_of(request) == part)
    servers.eventually(lambda: front.pool.in_flight == 0)
    assert front.received("GET", b"/next").target == b"/next"
    assert not request.complete
    assert body_of(request) == part


def test_rule_12_nothing_after_a_refused_request_is_answered(front: Front) -> None:
    """What follows a request whose framing is in doubt cannot be trusted to be one."""
    seen = len(front.backend.requests)
    for bad in (
        post(b"Host: b"),
        post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=LAST_CHUNK),
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ):
        with RawClient(front.port) as client:
            client.send(bad + SMUGGLED)
            assert client.read_response().status == 400
            assert client.read_head().status == 0
    assert len(front.backend.requests) == seen


# The request's body


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_rule_13_any_method_may_have_a_body_and_its_framing_arrives(
    front: Front, method: str
) -> None:
    request = front.received(method, b"/", (), b"hello")
    assert request.headers == [PLAIN[0], (b"content-length", b"5"), *PLAIN[1:]]
    assert (request.body, request.complete) == (b"hello", True)

    request = front.received(method, b"/", (), [b"hel", b"lo"])
    assert request.headers == [*PLAIN, CHUNKED]
    assert (request.body, request.complete) == (b"hello", True)

    request = front.received(method)
    assert request.headers == PLAIN
    assert request.raw == request.head

    request = front.received(method, b"/", (), b"")
    assert request.headers == [PLAIN[0], (b"content-length", b"0"), *PLAIN[1:]]

    request = front.received(method, b"/", (), [])
    assert request.headers == [*PLAIN, CHUNKED]
    assert (request.body, request.complete) == (b"", True)


def test_rule_13_http_1_0_has_the_same_framing(front: Front) -> None:
    fields = [(b"Host", b"test")]
    request = front.received("POST", b"/", fields, b"hello", version="1.0")
    assert (request.version, request.get(b"content-length")) == ("1.1", b"5")
    assert request.body == b"hello"
    assert front.received("GET", b"/", fields, version="1.0").headers == PLAIN


@pytest.mark.parametrize("is_chunked", [False, True])
def test_rule_13_a_large_body_arrives_whole(
    http: HttpImplementation, lane: Lane, is_chunked: bool
) -> None:
    body = bytes(range(256)) * 8192
    sizes = (1, 65535, 65536, 65537, 700001)

    def pieces() -> Iterator[bytes]:
        position = number = 0
        while position < len(body):
            size = sizes[number % len(sizes)]
            yield body[position : position + size]
            position, number = position + size, number + 1

    def handler(connection: Connection) -> None:
        digest = hashlib.sha256(connection.read_request().body).hexdigest()
        connection.send(response(200, digest.encode()))

    with gateway_before(handler, http=http, lane=lane) as front:
        sent: bytes | Iterable[bytes] = pieces() if is_chunked else body
        answer = front.request("POST", b"/", (), sent)
        assert answer.body.decode() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_rule_13_a_body_is_streamed(http: HttpImplementation, lane: Lane, is_chunked: bool) -> None:
    """The backend has the first piece while the client still holds the second."""
    pieces = [chunk(b"first"), chunk(b"again") + LAST_CHUNK] if is_chunked else [b"first", b"again"]
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 10"
    got_first = threading.Event()

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        body = b""
        for piece in request._body_pieces(connection._reader, to_the_end=False):
            body += piece
            if body == b"first":
                got_first.set()
        connection.send(response(200, body))

    with gateway_before(handler, http=http, lane=lane) as front:
        with RawClient(front.port) as client:
            client.send(post(framing, body=pieces[0]))
            assert got_first.wait(servers.WAIT)
            client.send(pieces[1])
            assert client.read_response().body == b"firstagain"


def test_rule_13_chunk_extensions_go_no_further(front: Front) -> None:
    data = post(b"Transfer-Encoding: chunked", body=b'5;a="b";c\r\nhello\r\n' + LAST_CHUNK)
    with RawClient(front.port) as client:
        client.send(data)
        assert client.read_response().status == 200
    request = front.backend.requests[-1]
    assert request.body == b"hello"
    assert b";" not in request.raw.partition(b"\r\n\r\n")[2]


def test_rule_16_request_trailers_are_dropped_with_their_announcement(front: Front) -> None:
    """Those that come after the head has gone on, that is: uvicorn's httptools protocol takes
    trailers for header fields, and one that comes in one packet with the head cannot be told from
    them. They pass the same checks."""
    seen = len(front.backend.requests)
    with RawClient(front.port) as client:
        client.send(post(b"Trailer: X-T", b"Transfer-Encoding: chunked", body=chunk(b"hello")))
        request = front.backend.wait_request(seen)
        client.send(b"0\r\nX-T: 1\r\nHost: b\r\n\r\n")
        assert client.read_response().status == 200
    assert request.headers == [*PLAIN, CHUNKED]
    assert (request.body, request.trailers) == (b"hello", [])

    at_once = b"Transfer-Encoding: chunked"
    with RawClient(front.port) as client:
        client.send(post(at_once, body=b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"))
        assert client.read_response().status == 200
    request = front.backend.requests[-1]
    merged = [(b"x-t", b"1")] if front.http != "h11" else []
    assert request.headers == [PLAIN[0], *merged, *PLAIN[1:], CHUNKED]
    if front.http != "h11":
        front.assert_refused(post(at_once, body=b"0\r\nHost: b\r\n\r\n"), 400)


# Expect


def test_rule_15_expect_is_answered_here_and_not_forwarded(front: Front) -> None:
    seen = len(front.backend.requests)
    with RawClient(front.port) as client:
        client.send(post(b"Expect: 100-continue", b"Content-Length: 5"))
        interim = client.recv()
        assert interim.startswith(b"HTTP/1.1 100")
        assert interim.endswith(b"\r\n\r\n")
        client.send(b"hello")
        answer = client.read_response()
        assert (answer.status, answer.informational) == (200, [])
    request = front.backend.requests[seen]
    assert request.headers == [PLAIN[0], (b"content-length", b"5"), *PLAIN[1:]]
    assert request.body == b"hello"


def test_rule_15_a_refused_request_is_not_told_to_continue(front: Front) -> None:
    data = post(b"Expect: 100-continue", b"Content-Length: 5", b"Host: b")
    answer = front.assert_refused(data, 400)
    assert answer.informational == []


# The response


#: Framings of a response's body, as a backend sends them: bytes, Content-Length at the client.
BODIES = [
    pytest.param(response(200, b"hello"), b"5", id="length"),
    pytest.param(response(200, b""), b"0", id="length-zero"),
    pytest.param(response(200, chunks=[b"hel", b"lo"]), None, id="chunked"),
    pytest.param(response(200, chunks=[]), None, id="chunked-empty"),
    pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", None, id="close-delimited"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", None, id="close-delimited-empty"),
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhello", None, id="http-1.0"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"5", id="http-1.0-length"),
]


@pytest.mark.parametrize(("data", "length"), BODIES)
def test_rule_14_a_responses_body_arrives_and_its_length_is_kept(
    obedient: Front, data: bytes, length: bytes | None
) -> None:
    with RawClient(obedient.port) as client:
        for _ in range(2):  # the client's connection is good for another
            answer = client.request("POST", b"/", (), data)
            assert (answer.status, answer.complete) == (200, True)
            assert answer.body == (b"hello" if b"hel" in data else b"")
            assert answer.get(b"content-length") == length
            assert (answer.get(b"transfer-encoding") is None) == (length is not None)


def test_rule_14_head_keeps_the_content_length(http: HttpImplementation, lane: Lane) -> None:
    """And the backend's connection, where nothing follows the head, is used again."""
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nETag: x\r\n\r\n",
    ]
    with gateway_before(responding(*heads, response(200, b"end")), http=http, lane=lane) as front:
        with RawClient(front.port) as client:
            for length in (b"5000", None, None, b"0"):
                answer = client.request("HEAD")
                assert answer.get(b"content-length") == length
                assert answer.get(b"etag") == b"x"
            assert client.request("GET").body == b"end"
        assert [request.method for request in front.backend.requests] == ["HEAD"] * 4 + ["GET"]


@pytest.mark.parametrize("status", [204, 304])
def test_rule_14_responses_without_a_body(
    http: HttpImplementation, lane: Lane, status: int
) -> None:
    """Content-Length is illegal with 204; uvicorn would miss the body it tells of with 304."""
    bare = b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % status
    with_length = b"HTTP/1.1 %d X\r\nContent-Length: 5\r\nETag: x\r\n\r\n" % status
    if status == 204:
        with_length = bare
    handler = responding(bare, with_length, response(200, b"end"))
    with gateway_before(handler, http=http, lane=lane) as front:
        with RawClient(front.port) as client:
            for _ in range(2):
                answer = client.request()
                assert (answer.status, answer.get(b"etag")) == (status, b"x")
                assert answer.get_all(b"content-length") == []
                assert answer.get_all(b"transfer-encoding") == []
            assert client.request().body == b"end"


def test_rule_15_interim_responses_of_a_backend_are_dropped(
    http: HttpImplementation, lane: Lane
) -> None:
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\nSet-Cookie: early=1\r\n\r\n"
    )
    with gateway_before(responding(interim + response(200, b"ok")), http=http, lane=lane) as front:
        for method in ("GET", "POST"):
            answer = front.request(method)
            assert (answer.status, answer.body, answer.informational) == (200, b"ok", [])
            assert answer.get(b"link") is None
            assert answer.get(b"set-cookie") is None


def test_rule_15_switching_protocols_unasked_is_502(http: HttpImplementation, lane: Lane) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nxx"
    with gateway_before(responding(switch), http=http, lane=lane) as front:
        for fields in ([], [(b"Connection", b"upgrade"), (b"Upgrade", b"h2c")]):
            answer = front.request("POST", b"/", fields)
            assert (answer.status, answer.body) == (502, b"502 Bad Gateway\n")
        assert all(request.get(b"upgrade") is None for request in front.backend.requests)


def test_rule_16_response_trailers_are_dropped_with_their_announcement(
    http: HttpImplementation, lane: Lane
) -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"hello")
        + b"0\r\nX-T: 1\r\nSet-Cookie: late=1\r\n\r\n"
    )
    with gateway_before(responding(data), http=http, lane=lane) as front:
        for _ in range(2):
            answer = front.request()
            assert (answer.body, answer.complete, answer.trailers) == (b"hello", True, [])
            assert [name.lower() for name, _ in answer.headers] == [b"transfer-encoding"]


def test_rule_16_the_reason_phrase_is_uvicorns(http: HttpImplementation, lane: Lane) -> None:
    data = response(404, b"", reason=b"Gone Fishing"), response(299, b"", reason=b"Odd")
    with gateway_before(responding(*data), http=http, lane=lane) as front:
        answer = front.request()
        assert (answer.status, answer.reason) == (404, b"Not Found")
        answer = front.request()
        assert (answer.status, answer.reason) == (299, b"")


def test_rule_16_an_http_1_0_client(http: HttpImplementation, lane: Lane) -> None:
    """With a length all is well. Without, h11 ends the body by closing; uvicorn's httptools
    protocol sends chunks to a client that need not know them."""
    data = response(200, b"hello"), response(200, chunks=[b"hello"])
    with gateway_before(responding(*data), http=http, lane=lane) as front:
        answer = front.request(version="1.0")
        assert (answer.body, answer.get(b"content-length")) == (b"hello", b"5")
        answer = front.request(version="1.0")
        assert answer.body == b"hello"
        chunked = b"chunked" if http != "h11" else None
        assert answer.get(b"transfer-encoding") == chunked


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked", id="te-and-cl"),
        pytest.param(b"Content-Length: 5\r\nContent-Length: 6", id="unequal-lengths"),
        pytest.param(b"Content-Length: x", id="length-garbage"),
        pytest.param(b"Content-Length: -1", id="length-negative"),
        pytest.param(b"Transfer-Encoding: gzip, chunked", id="another-coding"),
    ],
)
def test_rule_12_a_response_whose_framing_is_in_doubt_is_never_passed_on_as_complete(
    obedient: Front, head: bytes
) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + chunk(b"hello") + LAST_CHUNK
    answer = obedient.request("POST", b"/", (), data)
    assert answer.complete
    if obedient.lane == "httpx" and answer.status == 200:
        # h11 lets Transfer-Encoding win, as RFC 9112 §6.3 allows if the length is removed.
        assert head == b"Content-Length: 5\r\nTransfer-Encoding: chunked"
        assert (answer.body, answer.get(b"content-length")) == (b"hello", None)
    else:
        assert answer.status == 502


@pytest.mark.parametrize(
    ("data", "start"),
    [
        pytest.param(b"Content-Length: 10\r\n\r\nhello", b"hello", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello", id="chunked"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", b"hello", id="bad-chunk"
        ),
    ],
)
def test_rules_12_and_20_a_response_that_breaks_off_never_looks_complete(
    http: HttpImplementation, lane: Lane, data: bytes, start: bytes
) -> None:
    """The second half comes when the client has the first, so that the response has begun."""
    got_first = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_request()
        split = data.index(start) + len(start)
        connection.send(b"HTTP/1.1 200 OK\r\n" + data[:split])
        connection.wait(got_first)
        connection.send(data[split:])

    with gateway_before(handler, http=http, lane=lane) as front:
        with RawClient(front.port) as client:
            client.send(servers.encode_request())
            answer = client.read_head()
            assert client.read_piece(answer) == start
            got_first.set()
            client.read_body(answer)
            assert answer.body == start
            assert not answer.complete


# An early response


def test_rule_18_an_early_response_ends_the_upload(http: HttpImplementation) -> None:
    """The client gets its 413 while it is sending, and the backend is left alone from then on."""
    left_alone = threading.Event()

    def handler(connection: Connection) -> None:
        connection.read_head()
        connection.recv()
        connection.send(response(413, b"too large"))
        connection.wait_closed()
        left_alone.set()

    with gateway_before(handler, http=http) as front:
        with RawClient(front.port) as client:
            client.send(post(b"Content-Length: 100000000", body=b"a" * 1000))
            answer = client.read_response()
            assert (answer.status, answer.body, answer.complete) == (413, b"too large", True)
            servers.eventually(lambda: front.pool.in_flight == 0)
            assert left_alone.wait(servers.WAIT)
        assert len(front.backend.requests) == 1


def test_rule_18_httpx_shows_an_early_response_when_all_is_sent(http: HttpImplementation) -> None:
    """httpcore begins to read when it has nothing left to write."""
    answered = threading.Event()

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        connection.send(response(413, b"too large"))
        answered.set()
        connection.read_body(request)

    with gateway_before(handler, http=http, lane="httpx") as front:
        with RawClient(front.port) as client:
            client.send(post(b"Content-Length: 10", body=b"first"))
            assert answered.wait(servers.WAIT)
            client.send(b"again")
            answer = client.read_response()
            assert (answer.status, answer.body, answer.complete) == (413, b"too large", True)
        (request,) = front.backend.requests
        servers.eventually(lambda: request.complete)
        assert request.body == b"firstagain"


def test_rule_18_a_response_may_begin_before_its_request_ends(http: HttpImplementation) -> None:
    """A dialogue within one exchange. httpcore cannot hold one; see above."""

    def handler(connection: Connection) -> None:
        request = connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"go on"))
        connection.read_body(request)
        connection.send(chunk(request.body) + LAST_CHUNK)

    with gateway_before(handler, http=http) as front:
        with RawClient(front.port) as client:
            client.send(post(b"Content-Length: 10", body=b"first"))
            answer = client.read_head()
            assert client.read_piece(answer) == b"go on"
            client.send(b"again")
            assert client.read_piece(answer) == b"firstagain"
            assert client.read_piece(answer) == b""
            assert answer.complete


# Other versions of HTTP


async def call(gateway: Gateway, scope: Scope, pieces: list[bytes]) -> tuple[int, bytes]:
    """What a server of another HTTP version does with an app; status and body of the response."""
    sent: list[Message] = []
    inbox = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    finished = asyncio.Event()

    async def receive() -> Message:
        if inbox:
            return inbox.pop(0)
        await finished.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            finished.set()

    await asyncio.wait_for(gateway(scope, receive, send), servers.WAIT)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def scope_of(version: str, method: str, *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "scheme": "https",
        "path": "/x",
        "raw_path": b"/%78",
        "query_string": b"q",
        "root_path": "",
        "headers": [(b"host", b"test"), *headers],
        "client": ("192.0.2.1", 4711),
        "server": ("127.0.0.1", 443),
    }


LENGTH = (b"content-length", b"10")


@pytest.mark.parametrize("version", ["2", "3"])
@pytest.mark.parametrize(
    ("method", "headers", "pieces", "framing", "body"),
    [
        pytest.param("GET", [], [b""], [], b"", id="no-body"),
        pytest.param("POST", [], [b""], [], b"", id="post-without-body"),
        pytest.param("POST", [], [b"hello"], [CHUNKED], b"hello", id="body"),
        pytest.param("GET", [], [b"hello"], [CHUNKED], b"hello", id="body-with-get"),
        pytest.param("PUT", [], [b"hello", b"again"], [CHUNKED], b"helloagain", id="pieces"),
        pytest.param("PUT", [], [b"", b"late"], [CHUNKED], b"late", id="first-piece-empty"),
        pytest.param("PUT", [], [b"", b""], [CHUNKED], b"", id="all-pieces-empty"),
        pytest.param("PUT", [LENGTH], [b"hello", b"again"], [LENGTH], b"helloagain", id="length"),
        pytest.param(
            "GET", [(b"content-length", b"0")], [b""], [(b"content-length", b"0")], b"", id="zero"
        ),
    ],
)
def test_rule_19_nothing_depends_on_the_http_version(
    lane: Lane,
    version: str,
    method: str,
    headers: list[tuple[bytes, bytes]],
    pieces: list[bytes],
    framing: list[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    """HTTP/2 and HTTP/3 frame a body without any header: only the messages tell."""

    async def main(url: str) -> tuple[int, bytes]:
        transport = transport_of(lane)
        try:
            async with Gateway({"/": Pool("shop", [url], transport=transport)}) as gateway:
                return await call(gateway, scope_of(version, method, *headers), pieces)
        finally:
            if transport is not None:
                await transport.aclose()

    with RawBackend(responding(response(200, b"ok"))) as backend:
        assert asyncio.run(main(backend.url)) == (200, b"ok")
        (request,) = backend.requests
        assert (request.method, request.target, request.version) == (method, b"/%78?q", "1.1")
        own = [(name, value) for name, value in request.headers if name[:2] != b"x-"]
        assert own == [(b"host", b"test"), *framing]
        assert (request.body, request.complete) == (body, True)
        assert request.get(b"x-forwarded-proto") == b"https"


def test_rule_19_a_refusal_says_nothing_of_connections_to_http_2() -> None:
    """RFC 9113 §8.2.2: a Connection field would make the response malformed."""

    async def main(version: str) -> list[tuple[bytes, bytes]]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        gateway = Gateway({"/": Pool("shop", ["http://127.0.0.1:9"])})
        async with gateway:
            await gateway(scope_of(version, "GET", (b"host", b"b")), receive, send)
        assert sent[0]["status"] == 400
        headers: list[tuple[bytes, bytes]] = sent[0]["headers"]
        return headers

    assert (b"connection", b"close") in asyncio.run(main("1.1"))
    assert b"connection" not in dict(asyncio.run(main("2")))


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"hello"], id="too-short"),
        pytest.param([b"hello", b"again", b"more"], id="too-long"),
    ],
)
def test_rule_12_a_body_must_have_its_declared_length(lane: Lane, pieces: list[bytes]) -> None:
    """A server of HTTP/2 may not check it; over HTTP/1.1 the rest would be the next request."""

    async def main(url: str) -> tuple[int, bytes]:
        transport = transport_of(lane)
        try:
            async with Gateway({"/": Pool("shop", [url], transport=transport)}) as gateway:
                return await call(gateway, scope_of("2", "POST", LENGTH), pieces)
        finally:
            if transport is not None:
                await transport.aclose()

    with RawBackend(responding(response(200, b"ok"))) as backend:
        status, _ = asyncio.run(main(backend.url))
        assert status == 400
        # Ten bytes may have gone out before an eleventh was there; none goes out after them.
        assert all(len(body_of(request)) <= 10 for request in backend.requests)
        if len(pieces) == 1:
            assert not any(request.complete for request in backend.requests)
    assert all(len(connection.requests) <= 1 for connection in backend.connections)
