"""`ResponseReader` and the heads it remembers. What it reads is compared with h11 elsewhere."""

from __future__ import annotations

import pytest

from sticky_asgi.exceptions import MalformedResponse
from sticky_asgi.request import RawHeaders
from sticky_asgi.upstream.http1_reader import Heads, ResponseReader, remembered_heads


class Response:
    """What a reader fills in."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.status = 0
        self.headers: RawHeaders = []
        self.body = b""
        self.is_complete = False

    def begin(self, status: int, headers: RawHeaders) -> None:
        self.status, self.headers = status, headers

    def feed(self, piece: bytes) -> bool:
        self.body += piece
        return True

    def finish(self, piece: bytes) -> None:
        self.body += piece
        self.complete()

    def complete(self) -> None:
        self.is_complete = True


def read(
    heads: Heads, *pieces: bytes, method: str = "GET", max_head: int = 65536
) -> tuple[Response, ResponseReader]:
    response = Response(method)
    reader = ResponseReader(response, "backend a", max_head, heads)  # type: ignore[arg-type]
    for piece in pieces:
        reader.read(piece)
    return response, reader


def told(response: Response, reader: ResponseReader) -> tuple[object, ...]:
    return (
        response.status,
        response.headers,
        response.body,
        response.is_complete,
        reader.keeps_alive,
        reader.is_until_close,
    )


OK = b"HTTP/1.1 200 OK\r\n"
CLOSING = OK + b"Content-Length: 2\r\nConnection: close, x-b\r\nX-B: 1\r\n\r\nhi"
OLD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1"

WHOLE = [
    pytest.param(OK + b"Content-Length: 2\r\nX-A: b\r\n\r\nhi", 1, id="length"),
    pytest.param(OK + b"Content-Length: 0\r\n\r\n", 1, id="no body"),
    pytest.param(OK + b"Content-Length: 9\r\n\r\nhi", 1, id="part of a body"),
    pytest.param(OK + b"\r\nuntil the end", 1, id="until close"),
    pytest.param(CLOSING, 1, id="close"),
    pytest.param(OK + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n", 1, id="surplus"),
    pytest.param(b"HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\n", 1, id="304"),
    pytest.param(OLD, 1, id="1.0"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 0, id="chunked"),
    pytest.param(b"HTTP/1.1 103 E\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", 1, id="interim"),
]


@pytest.mark.parametrize(("raw", "kept"), WHOLE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_remembered_head_means_what_it_meant(raw: bytes, kept: int, method: str) -> None:
    heads = remembered_heads()
    first = told(*read(heads, raw, method=method))
    for _ in range(4):
        assert told(*read(heads, raw, method=method)) == first
    assert len(heads) == kept
    assert told(*read(heads, *(raw[at : at + 1] for at in range(len(raw))), method=method)) == first


@pytest.mark.parametrize(("raw", "kept"), WHOLE)
def test_a_remembered_head_means_something_else_in_answer_to_head(raw: bytes, kept: int) -> None:
    expected = told(*read(remembered_heads(), raw, method="HEAD"))
    heads = remembered_heads()
    for method in ("GET", "GET", "GET", "HEAD", "HEAD", "HEAD"):
        answer = told(*read(heads, raw, method=method))
        if method == "HEAD":
            assert answer == expected
    assert expected[2:4] == (b"", True)


def test_answers_to_head_are_not_remembered() -> None:
    heads = remembered_heads()
    for _ in range(3):
        read(heads, OK + b"Content-Length: 5\r\n\r\n", method="HEAD")
    assert len(heads) == 0
    response, _ = read(heads, OK + b"Content-Length: 5\r\n\r\n", b"hello")
    assert response.body == b"hello"


def test_a_smaller_limit_counts_for_remembered_heads() -> None:
    heads = remembered_heads()
    raw = OK + b"Content-Length: 0\r\nX-Long: " + b"x" * 200 + b"\r\n\r\n"
    for _ in range(3):
        read(heads, raw, max_head=1000)
    with pytest.raises(MalformedResponse, match="head over 100 bytes"):
        read(heads, raw, max_head=100)


def test_refused_heads_are_refused_again() -> None:
    heads = remembered_heads()
    for _ in range(4):
        with pytest.raises(MalformedResponse, match="Content-Length"):
            read(heads, OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n1")
    assert len(heads) == 0


def test_large_heads_are_not_remembered() -> None:
    heads = remembered_heads()
    for _ in range(3):
        read(heads, OK + b"Content-Length: 0\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n")
    assert len(heads) == 0
