"""What the transport makes of a backend's bytes, against a second parser: h11.

Where both accept, they must agree on everything. Where one refuses, the stricter wins: every way
in which the transport is stricter has an entry, with its reason, in `STRICTER`, and the few in
which it is not have theirs in `LAXER`. Wherever the bytes are split, they mean the same.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sticky_asgi.request import RawHeaders
from tests.upstream.verdicts import (
    FUZZ,
    MAX_HEAD,
    Accepted,
    Arena,
    End,
    Job,
    Refused,
    Verdict,
    by_h11,
    end_to_end,
    in_pieces,
    opened,
)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """On a unix socket: it is fast, and thousands of connections leave no port behind."""
    with opened(unix=tmp_path_factory.mktemp("arena") / "s") as arena:
        yield arena


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ],
)
def tcp_arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    factory: Callable[[], asyncio.AbstractEventLoop] = request.param
    with opened(factory) as arena:
        yield arena


# The ways in which the two readings may differ


class Difference(NamedTuple):
    """A way in which the transport reads something else than h11.

    Attributes:
        reason: Why that is right, or safe.
        shape: What all bytes have in common that are read in this way.
    """

    reason: str
    shape: re.Pattern[bytes]


def difference(reason: str, shape: bytes) -> Difference:
    return Difference(reason, re.compile(shape, re.IGNORECASE | re.DOTALL))


#: What h11 accepts and the transport refuses.
STRICTER = {
    "version": difference(
        "RFC 9112 §2.3: 1.0 and 1.1 are all there is of HTTP/1; others have other framings.",
        rb"HTTP/(?!1\.[01][^0-9])",
    ),
    "status": difference("RFC 9110 §15: a status code is from 100 to 599.", rb"HTTP/1\.. [06-9]"),
    "control-character": difference(
        "RFC 9110 §5.5, RFC 9112 §4 and §7.1.1: no field value, reason phrase or chunk extension "
        "holds one. Some recipients end a line or a string there.",
        rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    ),
    "bare-lf": difference(
        "RFC 9112 §2.2: a recipient may take LF for a line's end. One in front or behind that "
        "does not would see another message.",
        rb"(?<!\r)\n",
    ),
    "bare-cr": difference(
        "RFC 9112 §2.2: a bare CR is invalid. In a chunk extension, which it ignores, h11 looks "
        "over it.",
        rb"\r(?!\n)",
    ),
    "fold": difference(
        "RFC 9112 §5.2: a gateway must answer 502 or unfold. What is folded could be the framing.",
        rb"\r\n[ \t]",
    ),
    "repeated-length": difference(
        "RFC 9112 §6.3 rule 5: equal lengths may be taken for one, or for the error they are.",
        rb"content-length:[^\r\n]*(,|.*content-length:)",
    ),
    "long-length": difference(
        "RFC 9110 §8.6: anticipate large decimal numerals. 18 digits fit into 64 bits everywhere.",
        rb"content-length:[ \t]*[0-9]{19}",
    ),
    "length-and-coding": difference(
        "RFC 9112 §6.3 rule 3: an attempt at response splitting, and ought to be an error.",
        rb"content-length:.*transfer-encoding:|transfer-encoding:.*content-length:",
    ),
    "coding-of-1.0": difference(
        "RFC 9112 §6.1: Transfer-Encoding with HTTP/1.0 is faulty framing, for whoever passed it "
        "on may have read the body by another.",
        rb"HTTP/1\.0.*transfer-encoding:",
    ),
    "tab-behind-framing": difference(
        "RFC 9110 §5.5 allows white space behind a value, but llhttp does not know `chunked` with "
        "a tab behind it, nor, in httptools 0.6, a length. Nobody sends that.",
        rb"(transfer-encoding|content-length):[^\r\n]*\t *\r",
    ),
    "space-in-chunk-size": difference(
        "RFC 9112 §7.1: there is no white space in a chunk's first line but bad one before an "
        "extension, which nobody sends.",
        rb"\r\n[0-9a-f]+[ \t]",
    ),
    "chunk-extension": difference(
        "RFC 9112 §7.1.1: an extension is a token and perhaps a token or a quoted string. h11 "
        "takes anything up to the line's end, which others have seen elsewhere.",
        rb"\r\n[0-9a-f]+;",
    ),
    "interim-framing": difference(
        "RFC 9110 §8.6 and RFC 9112 §6.1: no interim response has a length or a coding. Two "
        "that contradict one another, or are none, are an error there, too.",
        rb"HTTP/1\.. 1[^\n]*\n([^\r\n]+\r\n)*(content-length|transfer-encoding):",
    ),
    "interim-close": difference(
        "RFC 9112 §9.6: after the message that says `close`, no other follows on a connection, "
        "and HTTP/1.0 has no interim responses (RFC 9110 §15.2).",
        rb"HTTP/1\.(0 1|. 1[^\n]*\n([^\r\n]+\r\n)*connection:)",
    ),
    "limit": difference(
        "max_head counts all interim responses, the trailers and the extensions; h11's limit "
        "holds for each line that has not come whole.",
        rb".{%d}" % MAX_HEAD,
    ),
}

#: What the transport accepts and h11 refuses.
LAXER = {
    "zeros-before-chunk-size": difference(
        "A chunk size may have any number of zeros before it (RFC 9112 §7.1). h11 takes twenty "
        "digits; here the value must fit into 64 bits, and all digits into max_head.",
        rb"\r\n0{5,}[0-9a-f]+[;\r]",
    ),
    "coding-in-trailers": difference(
        "RFC 9110 §6.5.1: framing does not belong into trailers, which are not passed on.",
        rb"\r\n0+(;[^\r\n]*)?\r\n([^\r\n]+\r\n)*transfer-encoding:",
    ),
    "interim-coding": difference(
        "An interim response has no body, however it is coded, and is not passed on.",
        rb"HTTP/1\.. 1[^\n]*\n([^\r\n]+\r\n)*transfer-encoding:",
    ),
}

#: What the transport takes for reusable and h11 does not.
KEPT = {
    "1.0-keep-alive": difference(
        "RFC 9112 §9.3: a proxy may keep the connection of an HTTP/1.0 response that says so. "
        "Only one that tells its length is kept.",
        rb"HTTP/1\.0.*\r\nconnection:[^\r\n]*keep-alive",
    ),
}


#: What h11 takes for reusable and the transport need not.
CLOSED = {
    "close-in-trailers": difference(
        "A backend that says `close`, even in trailers, where it means nothing, may well close.",
        rb"\r\n0+(;[^\r\n]*)?\r\n([^\r\n]+\r\n)*connection:",
    ),
}


def unexcused(raw: bytes, ours: Verdict, theirs: Verdict) -> str | None:
    """What is wrong with our reading, in view of theirs; None if nothing is."""

    def explains(table: dict[str, Difference]) -> bool:
        return any(entry.shape.search(raw) for entry in table.values())

    if isinstance(ours, Refused):
        if isinstance(theirs, Refused):
            ours_begin = ours.body[: len(theirs.body)], theirs.body[: len(ours.body)]
            return None if ours_begin[0] == ours_begin[1] else "another body before the error"
        if not theirs.body.startswith(ours.body):
            return "another body before the error"
        return None if explains(STRICTER) else "refused without a reason in STRICTER"
    if isinstance(theirs, Refused):
        return None if explains(LAXER) else "accepted without a reason in LAXER"
    if (ours.status, ours.headers, ours.body) != (theirs.status, theirs.headers, theirs.body):
        return "another response"
    if ours.is_reusable and not theirs.is_reusable and not explains(KEPT):
        return "reusable without a reason in KEPT"
    if theirs.is_reusable and not ours.is_reusable and not explains(CLOSED):
        return "closed without a reason in CLOSED"
    return None


def check(arena: Arena, raw: bytes, pieces: Sequence[bytes], method: str, end: End) -> None:
    theirs = by_h11(raw, method, end=end)
    ours = arena.verdict(pieces, method, end=end, like=theirs)
    assert unexcused(raw, ours, theirs) is None, (ours, theirs)


# The corpus


class Case(NamedTuple):
    """Bytes a backend may answer with.

    Attributes:
        raw: The bytes.
        method: The request's method.
        why: The entry of the list's table that it is an example of.
    """

    raw: bytes
    method: str = "GET"
    why: str = ""


OK = b"HTTP/1.1 200 OK\r\n"
TE = b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nok"
LAST = b"0\r\n\r\n"
#: What must never be taken for an answer to anything.
SPLIT = b"HTTP/1.1 200 Evil\r\nContent-Length: 4\r\n\r\nevil"


def started(line: bytes) -> bytes:
    return line + b"\r\n" + LENGTH


def with_field(line: bytes) -> bytes:
    return OK + line + b"\r\n" + LENGTH


def with_length(value: bytes) -> bytes:
    return OK + b"Content-Length:" + value + b"\r\n\r\nok"


def with_coding(value: bytes) -> bytes:
    return OK + b"Transfer-Encoding:" + value + b"\r\n\r\n2\r\nok\r\n" + LAST


def chunked(body: bytes) -> bytes:
    return OK + TE + body


def trailing(fields: bytes) -> bytes:
    return OK + TE + b"2\r\nok\r\n0\r\n" + fields + b"\r\n\r\n"


def interim(line: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + line + b"\r\n" + fields + b"\r\n" + OK + LENGTH


#: Both accept them, and read the same.
ACCEPTED = {
    "length": Case(with_field(b"A: b")),
    "length-zeros": Case(with_length(b" 002")),
    "length-18-digits": Case(with_length(b" " + b"0" * 17 + b"2")),
    "length-tab": Case(with_length(b"\t2 ")),
    "length-zero": Case(OK + b"Content-Length: 0\r\n\r\n"),
    "no-reason": Case(started(b"HTTP/1.1 200")),
    "no-reason-but-space": Case(started(b"HTTP/1.1 200 ")),
    "reason-two-spaces": Case(started(b"HTTP/1.1 200  OK ")),
    "reason-obs-text": Case(started(b"HTTP/1.1 599 \xe4\x85\xff\tx")),
    "reason-http": Case(started(b"HTTP/1.1 200 HTTP/1.1 404 Not Found")),
    "field-empty": Case(with_field(b"A:\r\nB: \r\nC: \t ")),
    "field-space": Case(with_field(b"A: \t b \t c \t ")),
    "field-obs-text": Case(with_field(b"A: \x80\x85\xa0\xad\xff")),
    "field-colons": Case(with_field(b"A::b: c:")),
    "field-names": Case(with_field(b"!#$%&'*+-.^_`|~09azAZ: v")),
    "fields-of-one-hop": Case(
        with_field(
            b"Keep-Alive: timeout=5\r\nX: y\r\nTE: a\r\nProxy-Authenticate: b\r\nTrailer: X\r\n"
            b"CONNECTION: x-gone ,\r\nX-Gone: a\r\nUpgrade: h2c\r\nX: z\r\nProxy-Connection: b\r\n"
            b"Connection: Content-Length\r\nproxy-authorization: c\r\nx-gone: b"
        )
    ),
    "fields-repeated": Case(with_field(b"B: 2\r\nA: 1\r\nb: 3\r\nB: 2")),
    "field-looks-like-framing": Case(
        with_field(b"X-Content-Length: 9\r\nTransfer_Encoding: chunked")
    ),
    "field-200-of-them": Case(with_field(b"\r\n".join(b"A%d: b" % n for n in range(200)))),
    "chunked": Case(chunked(b"2\r\nok\r\n" + LAST)),
    "chunked-empty": Case(chunked(LAST)),
    "chunked-case": Case(
        OK + b"tRANSFER-eNCODING: cHUNKED\r\n\r\nA\r\n0123456789\r\n0a\r\n9876543210\r\n" + LAST
    ),
    "chunked-tab": Case(with_coding(b"\tchunked ")),
    "chunked-of-crlf": Case(chunked(b"4\r\n\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n" + LAST)),
    "chunk-size-zeros": Case(chunked(b"000000002\r\nok\r\n0000\r\n\r\n")),
    "chunk-size-20-digits": Case(chunked(b"0" * 19 + b"2\r\nok\r\n" + LAST)),
    "chunk-extensions": Case(chunked(b'2;a;b=c;d="e;f\\"g"\r\nok\r\n0;h\r\n\r\n')),
    "trailers": Case(trailing(b"A: b\r\nA:\r\nC:\t d ")),
    "trailers-that-upgrade": Case(trailing(b"Connection: upgrade\r\nUpgrade: h2c")),
    "interim": Case(interim(b"100 Continue")),
    "interim-fields": Case(interim(b"103 Early Hints", b"Link: </a>\r\nSet-Cookie: a=b\r\n")),
    "interim-many": Case(b"HTTP/1.1 102 P\r\n\r\n" * 5 + OK + LENGTH),
    "interim-unknown": Case(interim(b"199 X")),
    "interim-of-no-length": Case(interim(b"100 Continue", b"Content-Length: 0\r\n")),
    "interim-with-length": Case(interim(b"103 E", b"Content-Length: 5\r\n")),
    "interim-unknown-with-length": Case(interim(b"110 X", b"Content-Length: 5\r\n")),
    # The length of the next head, which is none of its body.
    "interim-splitting": Case(interim(b"110 X", b"Content-Length: 38\r\n") + SPLIT),
    "interim-splitting-bare": Case(
        b"HTTP/1.1 110 X\r\nContent-Length: 19\r\n\r\nHTTP/1.1 204 No\r\n\r\n" + SPLIT
    ),
    "interim-chunked": Case(interim(b"103 E", b"Transfer-Encoding: chunked\r\n")),
    "interim-unknown-chunked": Case(interim(b"110 X", b"Transfer-Encoding: chunked\r\n")),
    "interim-before-head": Case(
        b"HTTP/1.1 103 E\r\n\r\n" + OK + b"Content-Length: 9\r\n\r\n", "HEAD"
    ),
    "interim-before-204": Case(b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\n"),
    "close-delimited": Case(OK + b"\r\nbody"),
    "close-delimited-empty": Case(OK + b"A: b\r\n\r\n"),
    "close-delimited-said-so": Case(OK + b"Connection: close\r\n\r\nbody"),
    "close-delimited-of-1.0": Case(b"HTTP/1.0 200 OK\r\n\r\nbody"),
    "close-delimited-kept-alive": Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nbody"),
    "close-delimited-like-a-response": Case(OK + b"\r\n" + SPLIT),
    "close": Case(with_field(b"Connection: a ,CLOSE, b")),
    "close-in-a-second-field": Case(with_field(b"Connection: keep-alive\r\nConnection:\tclose\t")),
    "close-is-no-word-of-it": Case(
        with_field(b"Connection: closed, xclose\r\nProxy-Connection: close")
    ),
    "close-chunked": Case(OK + b"Connection: close\r\n" + TE + b"2\r\nok\r\n" + LAST),
    "1.0": Case(started(b"HTTP/1.0 200 OK")),
    "1.0-close": Case(started(b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close")),
    "upgrade-refused": Case(started(b"HTTP/1.1 426 U\r\nConnection: upgrade\r\nUpgrade: h2c")),
    "upgrade-offered": Case(
        OK + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + TE + b"2\r\nok\r\n" + LAST
    ),
    "204": Case(b"HTTP/1.1 204 N\r\nA: b\r\n\r\n"),
    "204-with-length": Case(b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n"),
    "204-chunked": Case(b"HTTP/1.1 204 N\r\n" + TE),
    "204-with-body": Case(b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\nok"),
    "304": Case(b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n\r\n"),
    "304-with-body": Case(b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n\r\nok"),
    "304-chunked-with-body": Case(b"HTTP/1.1 304 N\r\n" + TE + LAST),
    "205": Case(started(b"HTTP/1.1 205 R")),
    "205-close-delimited": Case(b"HTTP/1.1 205 R\r\n\r\n"),
    "head": Case(OK + b"Content-Length: 2\r\n\r\n", "HEAD"),
    "head-chunked": Case(OK + TE, "HEAD"),
    "head-bare": Case(OK + b"\r\n", "HEAD"),
    "head-close": Case(OK + b"Connection: close\r\n\r\n", "HEAD"),
    "head-with-body": Case(OK + LENGTH, "HEAD"),
    "head-chunked-with-body": Case(chunked(b"2\r\nok\r\n" + LAST), "HEAD"),
    "split-after-length": Case(OK + LENGTH + SPLIT),
    "split-after-chunks": Case(chunked(LAST) + SPLIT),
    "split-after-trailers": Case(trailing(b"A: b") + SPLIT),
    "split-after-204": Case(b"HTTP/1.1 204 N\r\n\r\n" + SPLIT),
    "split-after-304": Case(b"HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n" + SPLIT),
    "split-after-head": Case(OK + b"Content-Length: 9\r\n\r\n" + SPLIT, "HEAD"),
    "split-after-close": Case(with_field(b"Connection: close") + SPLIT),
    "split-after-1.0": Case(started(b"HTTP/1.0 200 OK") + SPLIT),
    "interim-after-chunks": Case(chunked(LAST) + b"HTTP/1.1 100 C\r\n\r\n"),
    "line-break-after-length": Case(OK + LENGTH + b"\r\n"),
    "line-break-after-chunks": Case(chunked(LAST) + b"\r\n"),
    "line-feed-after-chunks": Case(chunked(LAST) + b"\n"),
    "carriage-return-after-chunks": Case(chunked(LAST) + b"\r"),
    "nul-after-chunks": Case(chunked(LAST) + b"\0"),
    "last-chunk-twice": Case(chunked(LAST) + LAST),
}

#: Both refuse them.
REFUSED = {
    "nothing": Case(b""),
    "one-byte": Case(b"H"),
    "head-cut-off": Case(OK),
    "interim-only": Case(b"HTTP/1.1 103 E\r\n\r\n"),
    "0.9": Case(b"<html>ok</html>"),
    "tls": Case(b"\x15\x03\x01\x00\x02\x02\x46"),
    "smtp": Case(b"220 mail ESMTP\r\n"),
    "http2": Case(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\x03\x00\x00\x00\x64" * 3),
    "request": Case(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "lower-case": Case(started(b"http/1.1 200 OK")),
    "version-short": Case(started(b"HTTP/1 200 OK")),
    "version-long": Case(started(b"HTTP/1.10 200 OK")),
    "version-comma": Case(started(b"HTTP/1,1 200 OK")),
    "version-space": Case(started(b"HTTP/ 1.1 200 OK")),
    "two-spaces": Case(started(b"HTTP/1.1  200 OK")),
    "tab": Case(started(b"HTTP/1.1\t200 OK")),
    "tab-behind-status": Case(started(b"HTTP/1.1 200\tOK")),
    "space-first": Case(started(b" HTTP/1.1 200 OK")),
    "line-break-first": Case(b"\r\n" + OK + LENGTH),
    "line-feed-first": Case(b"\n" + OK + LENGTH),
    "byte-order-mark": Case(b"\xef\xbb\xbf" + OK + LENGTH),
    "status-000": Case(started(b"HTTP/1.1 000 OK")),
    "status-099": Case(started(b"HTTP/1.1 099 OK")),
    "status-1000": Case(started(b"HTTP/1.1 1000 OK")),
    "status-20": Case(started(b"HTTP/1.1 20 OK")),
    "status-2x0": Case(started(b"HTTP/1.1 2x0 OK")),
    "status-sign": Case(started(b"HTTP/1.1 +20 OK")),
    "status-missing": Case(started(b"HTTP/1.1 OK")),
    "status-101": Case(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nabc"),
    "status-101-bare": Case(b"HTTP/1.1 101 S\r\n\r\n" + OK + LENGTH),
    "status-101-with-length": Case(started(b"HTTP/1.1 101 S")),
    "reason-nul": Case(started(b"HTTP/1.1 200 a\0b")),
    "reason-cr": Case(started(b"HTTP/1.1 200 a\rb")),
    "reason-vertical-tab": Case(started(b"HTTP/1.1 200 a\x0bb")),
    "cr-cr-lf": Case(started(b"HTTP/1.1 200 OK\r")),
    "name-empty": Case(with_field(b": b")),
    "name-missing": Case(with_field(b"b")),
    "name-control": Case(with_field(b"a\x01: b")),
    "name-nul": Case(with_field(b"a\0: b")),
    "name-cr": Case(with_field(b"a\r: b")),
    "name-space": Case(with_field(b"a b: c")),
    "name-space-behind": Case(with_field(b"a : b")),
    "name-tab-behind": Case(with_field(b"a\t: b")),
    "name-obs-text": Case(with_field(b"\xe4: b")),
    "name-delimiters": Case(with_field(b"a(b)[c]{d}/@: e")),
    "name-quoted": Case(with_field(b'"a": b')),
    "fold-at-once": Case(with_field(b" a: b")),
    "value-nul": Case(with_field(b"a: b\0c")),
    "value-cr": Case(with_field(b"a: b\rc: d")),
    "value-vertical-tab": Case(with_field(b"a: b\x0bc")),
    "value-form-feed": Case(with_field(b"Connection: close\x0c")),
    "cr-cr-at-the-end": Case(OK + b"Content-Length: 2\r\r\nok"),
    "cr-cr-lf-at-the-end": Case(OK + b"Content-Length: 2\r\n\r\r\nok"),
    "length-space-colon": Case(OK + b"Content-Length : 2\r\n\r\nok"),
    "length-empty": Case(with_length(b"")),
    "length-plus": Case(with_length(b" +2")),
    "length-minus": Case(with_length(b" -2")),
    "length-hex": Case(with_length(b" 0x2")),
    "length-point": Case(with_length(b" 2.0")),
    "length-underscore": Case(with_length(b" 1_0")),
    "length-exponent": Case(with_length(b" 2e0")),
    "length-two-words": Case(with_length(b" 2 0")),
    "length-comma": Case(with_length(b" 2,")),
    "length-semicolon": Case(with_length(b" 2;2")),
    "length-quoted": Case(with_length(b' "2"')),
    "length-list-unequal": Case(with_length(b" 2, 3")),
    "length-21-digits": Case(with_length(b" " + b"0" * 20 + b"2")),
    "length-overflow": Case(with_length(b" 18446744073709551618")),
    "length-no-break-space": Case(with_length(b" \xa02")),
    "length-vertical-tab": Case(with_length(b"\x0b2")),
    "length-superscript": Case(with_length(b" \xb2")),
    "length-arabic": Case(with_length(" ٢".encode())),
    "lengths-unequal": Case(with_field(b"Content-Length: 3")),
    "lengths-spelt-unequally": Case(with_field(b"Content-Length: 02")),
    "lengths-unequal-head": Case(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "HEAD"),
    "lengths-unequal-204": Case(
        b"HTTP/1.1 204 N\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"
    ),
    "length-unequal-interim": Case(
        interim(b"103 E", b"Content-Length: 1\r\nContent-Length: 2\r\n")
    ),
    "length-of-no-digits-interim": Case(interim(b"103 E", b"Content-Length: x\r\n")),
    "coding-empty": Case(with_coding(b"")),
    "coding-gzip": Case(with_coding(b" gzip")),
    "coding-gzip-chunked": Case(with_coding(b" gzip, chunked")),
    "coding-chunked-gzip": Case(with_coding(b" chunked, gzip")),
    "coding-chunked-chunked": Case(with_coding(b" chunked, chunked")),
    "coding-chunked-comma": Case(with_coding(b" chunked,")),
    "coding-chunked-twice": Case(OK + TE[:-2] + TE + LAST),
    "coding-chunked-then-gzip": Case(OK + TE[:-2] + b"Transfer-Encoding: gzip\r\n\r\n" + LAST),
    "coding-gzip-then-chunked": Case(OK + b"Transfer-Encoding: gzip\r\n" + TE + LAST),
    "coding-chunked-then-empty": Case(OK + TE[:-2] + b"Transfer-Encoding:\r\n\r\n" + LAST),
    "coding-identity": Case(with_coding(b" identity")),
    "coding-identity-with-length": Case(with_field(b"Transfer-Encoding: identity")),
    "coding-identity-then-chunked": Case(OK + b"Transfer-Encoding: identity\r\n" + TE + LAST),
    "coding-parameter": Case(with_coding(b" chunked;a=b")),
    "coding-quoted": Case(with_coding(b' "chunked"')),
    "coding-xchunked": Case(with_coding(b" xchunked")),
    "coding-chunkedx": Case(with_coding(b" chunkedx")),
    "coding-chunked-word": Case(with_coding(b" chunked x")),
    "coding-vertical-tab": Case(with_coding(b"\x0bchunked")),
    "coding-space-colon": Case(OK + b"Transfer-Encoding : chunked\r\n\r\n" + LAST),
    "coding-gzip-304": Case(b"HTTP/1.1 304 N\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "coding-gzip-head": Case(OK + b"Transfer-Encoding: gzip\r\n\r\n", "HEAD"),
    "chunk-size-hex": Case(chunked(b"0x2\r\nok\r\n" + LAST)),
    "chunk-size-plus": Case(chunked(b"+2\r\nok\r\n" + LAST)),
    "chunk-size-minus": Case(chunked(b"-2\r\nok\r\n" + LAST)),
    "chunk-size-zero-minus": Case(chunked(b"2\r\nok\r\n-0\r\n\r\n")),
    "chunk-size-space-before": Case(chunked(b" 2\r\nok\r\n" + LAST)),
    "chunk-size-underscore": Case(chunked(b"0_2\r\nok\r\n" + LAST)),
    "chunk-size-letter": Case(chunked(b"g\r\nok\r\n" + LAST)),
    "chunk-size-missing": Case(chunked(b"\r\nok\r\n" + LAST)),
    "chunk-size-only-extension": Case(chunked(b";a\r\nok\r\n" + LAST)),
    "chunk-size-huge": Case(chunked(b"f" * 16 + b"\r\nok\r\n" + LAST)),
    # 2**64 + 2, and the most zeros behind a digit that h11 has.
    "chunk-size-overflow": Case(chunked(b"1" + b"0" * 15 + b"2\r\nok\r\n" + LAST)),
    "chunk-size-overflow-to-zero": Case(chunked(b"2\r\nok\r\n1" + b"0" * 19 + b"\r\n\r\n")),
    "chunk-size-then-cr": Case(chunked(b"2\rok\r\n" + LAST)),
    "chunk-end-missing": Case(chunked(b"2\r\nok" + LAST)),
    "chunk-end-other": Case(chunked(b"2\r\nokxx" + LAST)),
    "chunk-end-lf": Case(chunked(b"2\r\nok\n" + LAST)),
    "chunk-end-cr": Case(chunked(b"2\r\nok\r" + LAST)),
    "chunk-end-lf-cr": Case(chunked(b"2\r\nok\n\r" + LAST)),
    "chunk-too-short": Case(chunked(b"3\r\nok\r\n" + LAST)),
    "chunk-too-long": Case(chunked(b"1\r\nok\r\n" + LAST)),
    "chunks-not-ended": Case(chunked(b"2\r\nok\r\n")),
    "last-chunk-not-ended": Case(chunked(b"2\r\nok\r\n0\r\n")),
    "last-chunk-then-response": Case(chunked(b"0\r\n" + SPLIT)),
    "trailer-name-space": Case(trailing(b"a b: c")),
    "trailer-name-empty": Case(trailing(b": c")),
    "trailer-name-missing": Case(trailing(b"c")),
    "trailer-name-space-behind": Case(trailing(b"a : c")),
    "trailer-nul": Case(trailing(b"a: b\0c")),
    "trailer-cr": Case(trailing(b"a: b\rc")),
    "trailer-fold-at-once": Case(trailing(b" a: b")),
    "body-cut-off": Case(OK + b"Content-Length: 3\r\n\r\nok"),
    "chunk-cut-off": Case(chunked(b"3\r\nok")),
    "line-break-after-interim": Case(interim(b"100 C\r\n\r\n\r\n"[:-4]).replace(OK, b"\r\n" + OK)),
    "body-after-interim": Case(interim(b"100 C", b"Content-Length: 2\r\n").replace(OK, b"ok" + OK)),
    "chunk-after-interim": Case(interim(b"110 C", TE[:-2]).replace(OK, LAST + OK)),
}

#: The transport refuses them, h11 does not.
REFUSED_BY_US = {
    "version-0.9": Case(started(b"HTTP/0.9 200 OK"), why="version"),
    "version-1.2": Case(started(b"HTTP/1.2 200 OK"), why="version"),
    "version-2.0": Case(started(b"HTTP/2.0 200 OK"), why="version"),
    "version-3.0": Case(started(b"HTTP/3.0 200 OK"), why="version"),
    "interim-of-2.0": Case(b"HTTP/2.0 103 E\r\n\r\n" + OK + LENGTH, why="version"),
    "status-600": Case(started(b"HTTP/1.1 600 OK"), why="status"),
    "status-999": Case(started(b"HTTP/1.1 999 OK"), why="status"),
    "reason-control": Case(started(b"HTTP/1.1 200 a\x01"), why="control-character"),
    "reason-escape": Case(started(b"HTTP/1.1 200 \x1b[2J"), why="control-character"),
    "reason-delete": Case(started(b"HTTP/1.1 200 a\x7f"), why="control-character"),
    "value-control": Case(with_field(b"a: b\x01c"), why="control-character"),
    "value-delete": Case(with_field(b"a: b\x7fc"), why="control-character"),
    "value-close-control": Case(with_field(b"Connection: close\x1f"), why="control-character"),
    "trailer-control": Case(trailing(b"a: b\x01"), why="control-character"),
    "extension-nul": Case(chunked(b"2;\0\r\nok\r\n" + LAST), why="control-character"),
    "lf-only": Case(OK.replace(b"\r", b"") + b"Content-Length: 2\n\nok", why="bare-lf"),
    "lf-behind-status": Case(OK.replace(b"\r", b"") + LENGTH, why="bare-lf"),
    "lf-behind-a-field": Case(with_field(b"a: b\nc: d"), why="bare-lf"),
    "lf-at-the-end": Case(OK + b"Content-Length: 2\r\n\nok", why="bare-lf"),
    "lf-before-the-end": Case(OK + b"Content-Length: 2\n\r\nok", why="bare-lf"),
    "lf-hides-a-length": Case(with_field(b"a: b\nContent-Length: 2"), why="bare-lf"),
    "lf-lf-hides-a-response": Case(with_field(b"Content-Length: 0\n\n" + SPLIT), why="bare-lf"),
    "lf-behind-a-trailer": Case(trailing(b"a: b\nc: d"), why="bare-lf"),
    "lf-behind-trailers": Case(chunked(b"2\r\nok\r\n0\r\n\n"), why="bare-lf"),
    "extension-cr": Case(chunked(b"2;a\rb\r\nok\r\n" + LAST), why="bare-cr"),
    "fold": Case(with_field(b"a: b\r\n c"), why="fold"),
    "fold-tab": Case(with_field(b"a: b\r\n\tc"), why="fold"),
    "fold-of-nothing": Case(with_field(b"a:\r\n b"), why="fold"),
    "fold-blank": Case(with_field(b"a: b\r\n \r\n c"), why="fold"),
    "fold-a-length": Case(with_length(b"\r\n 2"), why="fold"),
    "fold-a-length-to-its-end": Case(with_field(b"a: b\r\n Content-Length: 9"), why="fold"),
    "fold-a-coding": Case(with_coding(b"\r\n chunked"), why="fold"),
    "fold-a-trailer": Case(trailing(b"a: b\r\n c"), why="fold"),
    "fold-in-interim": Case(interim(b"103 E", b"a: b\r\n c\r\n"), why="fold"),
    "lengths-equal": Case(with_field(b"Content-Length: 2"), why="repeated-length"),
    "length-list-equal": Case(with_length(b" 2, 2"), why="repeated-length"),
    "length-19-digits": Case(with_length(b" " + b"0" * 18 + b"2"), why="long-length"),
    "length-and-coding": Case(
        OK + b"Content-Length: 2\r\n" + TE + b"2\r\nok\r\n" + LAST, why="length-and-coding"
    ),
    "coding-and-length": Case(
        OK + TE[:-2] + b"Content-Length: 2\r\n\r\n2\r\nok\r\n" + LAST, why="length-and-coding"
    ),
    "length-and-coding-head": Case(
        OK + b"Content-Length: 2\r\n" + TE, "HEAD", why="length-and-coding"
    ),
    "length-and-coding-304": Case(
        b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n" + TE, why="length-and-coding"
    ),
    "length-in-trailers": Case(trailing(b"Content-Length: 9"), why="length-and-coding"),
    "coding-of-1.0": Case(b"HTTP/1.0 200 OK\r\n" + TE + LAST, why="coding-of-1.0"),
    "coding-of-1.0-head": Case(b"HTTP/1.0 200 OK\r\n" + TE, "HEAD", why="coding-of-1.0"),
    "coding-of-1.0-kept": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + TE + LAST, why="coding-of-1.0"
    ),
    "length-tab-behind": Case(with_length(b"2\t "), why="tab-behind-framing"),
    "coding-tab-behind": Case(with_coding(b" chunked\t "), why="tab-behind-framing"),
    "chunk-size-space": Case(chunked(b"2 \r\nok\r\n" + LAST), why="space-in-chunk-size"),
    "chunk-size-tab": Case(chunked(b"2\t\r\nok\r\n" + LAST), why="space-in-chunk-size"),
    "extension-empty": Case(chunked(b"2;\r\nok\r\n" + LAST), why="chunk-extension"),
    "extension-semicolons": Case(chunked(b"2;;\r\nok\r\n" + LAST), why="chunk-extension"),
    "extension-space": Case(chunked(b"2; a\r\nok\r\n" + LAST), why="chunk-extension"),
    "extension-obs-text": Case(chunked(b"2;\xe4\r\nok\r\n" + LAST), why="chunk-extension"),
    "extension-quote-open": Case(chunked(b'2;a="b\r\nok\r\n' + LAST), why="chunk-extension"),
    "extension-quote-then": Case(chunked(b'2;a="b"c\r\nok\r\n' + LAST), why="chunk-extension"),
    "interim-length-and-coding": Case(
        interim(b"103 E", b"Content-Length: 1\r\n" + TE[:-2]), why="interim-framing"
    ),
    "interim-lengths-equal": Case(
        interim(b"103 E", b"Content-Length: 0\r\nContent-Length: 0\r\n"), why="interim-framing"
    ),
    "interims-too-many": Case(b"HTTP/1.1 103 E\r\n\r\n" * 460 + OK + LENGTH, why="limit"),
    "fields-too-many": Case(with_field(b"\r\n".join([b"a: bcd"] * 1200)), why="limit"),
    "field-too-long": Case(with_field(b"a: " + b"b" * MAX_HEAD), why="limit"),
}

#: h11 refuses them, the transport does not.
REFUSED_BY_H11 = {
    "chunk-size-21-digits": Case(
        chunked(b"0" * 20 + b"2\r\nok\r\n" + LAST), why="zeros-before-chunk-size"
    ),
    "chunk-size-many-zeros": Case(
        chunked(b"2\r\nok\r\n" + b"0" * 100 + b"\r\n\r\n"), why="zeros-before-chunk-size"
    ),
    "trailer-coding": Case(trailing(b"Transfer-Encoding: gzip"), why="coding-in-trailers"),
    "interim-gzip": Case(interim(b"103 E", b"Transfer-Encoding: gzip\r\n"), why="interim-coding"),
}

#: Read alike, but only the transport keeps the connection.
KEPT_BY_US = {
    "1.0-length": Case(started(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive"), why="1.0-keep-alive"),
    "1.0-204": Case(b"HTTP/1.0 204 N\r\nConnection: x, keep-alive\r\n\r\n", why="1.0-keep-alive"),
    "1.0-head": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", "HEAD", why="1.0-keep-alive"
    ),
}

#: h11 reads them and keeps the connection; the transport may do the same, or less.
LEFT_OPEN = {
    "interim-close": Case(interim(b"103 E", b"Connection: close\r\n"), why="interim-close"),
    "interim-of-1.0": Case(b"HTTP/1.0 103 E\r\n\r\n" + OK + LENGTH, why="interim-close"),
    "trailer-close": Case(trailing(b"A: b\r\nConnection: close"), why="close-in-trailers"),
}

CORPUS = ACCEPTED | REFUSED | REFUSED_BY_US | REFUSED_BY_H11 | KEPT_BY_US | LEFT_OPEN
#: What the transport reads to its end.
READABLE = ACCEPTED | REFUSED_BY_H11 | KEPT_BY_US | LEFT_OPEN


def params(cases: dict[str, Case]) -> list[object]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


def read(arena: Arena, case: Case) -> tuple[Verdict, Verdict]:
    """Our reading of a case's bytes in one piece, and h11's."""
    theirs = by_h11(case.raw, case.method)
    return arena.verdict([case.raw], case.method, like=theirs), theirs


def test_every_case_has_a_name_of_its_own_and_every_entry_a_case() -> None:
    lists = (ACCEPTED, REFUSED, REFUSED_BY_US, REFUSED_BY_H11, KEPT_BY_US, LEFT_OPEN)
    assert sum(map(len, lists)) == len(CORPUS)
    # Each entry has a case, and only where the other reading is allowed too it may be in LEFT_OPEN.
    for table, cases in ((STRICTER, REFUSED_BY_US), (LAXER, REFUSED_BY_H11), (KEPT, KEPT_BY_US)):
        assert {case.why for case in cases.values()} == table.keys() - {"interim-close"}
    assert {case.why for case in LEFT_OPEN.values()} == {"interim-close", *CLOSED}
    reasons = STRICTER | LAXER | KEPT | CLOSED
    for case in CORPUS.values():
        assert not case.why or reasons[case.why].shape.search(case.raw), case


@pytest.mark.parametrize("case", params(ACCEPTED))
def test_both_read_the_same(tcp_arena: Arena, case: Case) -> None:
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Accepted)
    assert ours == theirs


@pytest.mark.parametrize("case", params(REFUSED))
def test_both_refuse(tcp_arena: Arena, case: Case) -> None:
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Refused), theirs
    assert isinstance(ours, Refused), ours
    assert theirs.body.startswith(ours.body) or ours.body.startswith(theirs.body)


@pytest.mark.parametrize("case", params(REFUSED_BY_US))
def test_the_transport_refuses_what_h11_accepts(tcp_arena: Arena, case: Case) -> None:
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Accepted), theirs
    assert isinstance(ours, Refused), ours
    assert theirs.body.startswith(ours.body)


@pytest.mark.parametrize("case", params(REFUSED_BY_H11))
def test_the_transport_accepts_what_h11_refuses(tcp_arena: Arena, case: Case) -> None:
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Refused), theirs
    assert isinstance(ours, Accepted), ours
    assert (ours.status, ours.body) == (200, b"ok")


@pytest.mark.parametrize("case", params(KEPT_BY_US))
def test_the_transport_keeps_a_connection_that_h11_closes(tcp_arena: Arena, case: Case) -> None:
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Accepted)
    assert not theirs.is_reusable
    assert ours == Accepted(theirs.status, theirs.headers, theirs.body, True)


@pytest.mark.parametrize("case", params(LEFT_OPEN))
def test_the_transport_may_be_more_careful_than_h11(tcp_arena: Arena, case: Case) -> None:
    """If it keeps the connection it can use it: the arena tries."""
    ours, theirs = read(tcp_arena, case)
    assert isinstance(theirs, Accepted)
    assert theirs.is_reusable
    assert unexcused(case.raw, ours, theirs) is None


# Pieces


def cuts(raw: bytes) -> Sequence[int]:
    """Where a response is cut: everywhere; a huge one near its ends and line ends only."""
    if len(raw) < 1000:
        return range(1, len(raw))
    near = {*range(1, 40), *range(len(raw) - 40, len(raw)), MAX_HEAD, MAX_HEAD + 1}
    lines = [match.start() for match in re.finditer(b"\r\n", raw)]
    near |= {at + step for at in lines[:: 1 + len(lines) // 40] for step in range(4)}
    return sorted(at for at in near if 0 < at < len(raw))


@pytest.mark.parametrize("case", params(CORPUS))
def test_a_response_means_the_same_wherever_it_is_split(arena: Arena, case: Case) -> None:
    raw = case.raw
    whole = arena.verdict([raw], case.method, like=by_h11(raw, case.method))
    step = 1 + len(raw) // 1000
    byte_by_byte = [raw[at : at + step] for at in range(0, len(raw), step)]
    splits = [byte_by_byte, *([raw[:at], raw[at:]] for at in cuts(raw))]
    verdicts = arena.verdicts(Job(pieces, case.method, like=whole) for pieces in splits)
    for pieces, verdict in zip(splits, verdicts, strict=True):
        assert verdict == whole, pieces


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("case", params(READABLE))
def test_a_response_cut_off_is_never_a_shorter_one(
    request: pytest.FixtureRequest, case: Case, end: End
) -> None:
    """Unless the end of the connection is the end of the body; a reset never is."""
    # There are no resets on a unix socket, and the ports of TCP take their time to be free again.
    name, every = ("arena", 1) if end == "close" else ("loopback", 3)
    arena: Arena = request.getfixturevalue(name)
    raws = [case.raw[:at] for at in cuts(case.raw)[::every]]
    likes = [by_h11(raw, case.method, end=end) for raw in raws]
    jobs = [Job([raw], case.method, end, like) for raw, like in zip(raws, likes, strict=True)]
    for raw, ours, theirs in zip(raws, arena.verdicts(jobs), likes, strict=True):
        assert unexcused(raw, ours, theirs) is None, (raw, ours, theirs)


@pytest.fixture(scope="module")
def loopback() -> Iterator[Arena]:
    with opened() as arena:
        yield arena


# Everything at once

FRAMINGS = [
    b"",
    *(b"Content-Length:" + value for value in (b" 2", b" 3", b" 0", b" 2, 2", b" +2", b"", b" 2 ")),
    b"content-length : 2",
    b" Content-Length: 2",
    b"X: y\nContent-Length: 2",
    *(b"Transfer-Encoding:" + value for value in (b" chunked", b" gzip", b" gzip, chunked", b"")),
    b"transfer-encoding : chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\tCHUNKED\t",
    b"Transfer-Encoding: chunked\x0b",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: content-length, transfer-encoding",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"HTTP/1.1 200 OK", id="1.1"),
        pytest.param(b"HTTP/1.0 200 OK", id="1.0"),
        pytest.param(b"HTTP/1.1 304 Same", id="304"),
        pytest.param(b"HTTP/1.1 103 E\r\n%s\r\n\r\nHTTP/1.1 200 OK", id="interim"),
    ],
)
def test_every_pair_of_framings(arena: Arena, line: bytes, method: str) -> None:
    """The body reads as ten bytes, as one chunk of two, or as anything between them."""
    raws = []
    for one, two in itertools.product(FRAMINGS, repeat=2):
        first = line % (one or b"A: b") if b"%" in line else line + b"\r\n" + (one or b"A: b")
        raws.append(first + b"\r\n" + (two or b"A: b") + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    likes = [by_h11(raw, method) for raw in raws]
    jobs = [Job([raw], method, like=like) for raw, like in zip(raws, likes, strict=True)]
    for raw, ours, theirs in zip(raws, arena.verdicts(jobs), likes, strict=True):
        assert unexcused(raw, ours, theirs) is None, (raw, ours, theirs)


# Generated responses

TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
#: What a field value may hold inside (RFC 9110 §5.5), and no white space at its ends.
VALUE = (
    st.lists(st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09]), max_size=12)
    .map(bytes)
    .map(lambda value: value.strip(b" \t"))
)
OWS = st.sampled_from([b" ", b"", b"\t", b"  \t"])
#: What may stand behind the fields whose values count.
OWS_BEHIND = {
    b"Transfer-Encoding": st.just(b""),
    b"Content-Length": st.sampled_from([b"", b" "]),
}
DRAWN_APART = (b"connection", b"content-length", b"transfer-encoding")
FIELD = st.tuples(TOKEN, VALUE).filter(lambda field: field[0].lower() not in DRAWN_APART)
QUOTED = st.lists(st.sampled_from([b"a", b" ", b";", b'\\"', b"\\\\", b"=", b","]), max_size=5).map(
    lambda parts: b'"' + b"".join(parts) + b'"'
)
EXTENSION = st.one_of(
    TOKEN.map(lambda name: b";" + name),
    st.tuples(TOKEN, TOKEN | QUOTED).map(lambda pair: b";%s=%s" % pair),
)


class Proper(NamedTuple):
    """A response as the RFCs have it, and what it says."""

    raw: bytes
    method: str
    said: Accepted


@st.composite
def proper_responses(draw: st.DrawFn) -> Proper:
    def lines(fields: RawHeaders) -> bytes:
        return b"".join(
            b"%s:%s%s%s\r\n" % (n, draw(OWS), v, draw(OWS_BEHIND.get(n, OWS))) for n, v in fields
        )

    method = draw(st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    status = draw(st.sampled_from([200, 204, 304, 206, 205, 301, 404, 500, 599]))
    raw = b""
    if version == b"1.1":
        for code in draw(st.lists(st.sampled_from([100, 102, 103, 110, 199]), max_size=3)):
            raw += b"HTTP/1.1 %d X\r\n%s\r\n" % (code, lines(draw(st.lists(FIELD, max_size=2))))
    headers = draw(st.lists(FIELD, max_size=4))
    options = draw(st.lists(st.sampled_from([b"close", b"Keep-Alive", b"x"]), max_size=2))
    if options:
        headers.insert(
            0, (draw(st.sampled_from([b"connection", b"Connection"])), b", ".join(options))
        )
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if framing == "chunked" and version == b"1.0":
        framing = "length"
    payload = body
    if framing == "length":
        headers.append((b"Content-Length", b"0" * draw(st.integers(0, 3)) + b"%d" % len(body)))
    elif framing == "chunked":
        headers.append((b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked"]))))
        payload = draw(chunks(body)) + lines(draw(st.lists(FIELD, max_size=2))) + b"\r\n"
    headers = draw(st.permutations(headers))
    if method == "HEAD" or status in (204, 304):
        body = payload = b""
        is_framed = True
    else:
        is_framed = framing != "close"
    words = [option.lower() for option in options]
    is_kept = b"close" not in words and (version == b"1.1" or b"keep-alive" in words)
    reason = draw(st.sampled_from([b"", b" ", b" OK", b" a\tb", b" \xe4 "]))
    raw += b"HTTP/%s %d%s\r\n%s\r\n%s" % (version, status, reason, lines(headers), payload)
    lowered = [(name.lower(), value) for name, value in headers]
    return Proper(
        raw, method, Accepted(status, end_to_end(lowered, status), body, is_framed and is_kept)
    )


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks, up to and with the line of the last one."""
    extension = st.one_of(st.just(b""), EXTENSION, st.tuples(EXTENSION, EXTENSION).map(b"".join))
    form = st.sampled_from([b"%x", b"%X", b"0%x", b"0000%x"])
    raw = b""
    ends = sorted(draw(st.sets(st.integers(1, len(body)), max_size=4))) if body else []
    for start, end in itertools.pairwise([0, *ends, len(body)]):
        if piece := body[start:end]:
            raw += draw(form) % len(piece) + draw(extension) + b"\r\n" + piece + b"\r\n"
    return raw + draw(st.sampled_from([b"0", b"00000"])) + draw(extension) + b"\r\n"


SPLITS = st.sets(st.integers(0, 1000), max_size=5)
#: What comes behind a response and is none of it.
SURPLUS = [b"", b"", b"\r\n", b"\n", b"0\r\n\r\n", b"x", SPLIT]


@settings(FUZZ, max_examples=150)
@given(response=proper_responses(), ends=SPLITS, surplus=st.sampled_from(SURPLUS))
def test_a_proper_response_is_read_as_it_is_meant(
    arena: Arena, response: Proper, ends: set[int], surplus: bytes
) -> None:
    raw, method, said = response
    if by_h11(raw, method, end="reset") == Refused():
        # Only the end of the connection ends it, or nothing would be surplus.
        surplus = b""
    is_reusable = said.is_reusable and not surplus
    expected = Accepted(said.status, said.headers, said.body, is_reusable)
    raw += surplus
    theirs = by_h11(raw, method)
    ours = arena.verdict(in_pieces(raw, ends), method, like=expected)
    assert ours == expected
    assert unexcused(raw, ours, theirs) is None, theirs
    assert isinstance(theirs, Accepted)


#: What goes wrong, or is done wrong on purpose.
ACCIDENTS = [
    *(bytes([byte]) for byte in b'\0\x01\t\n\x0b\x0c\r\x1f ",+-0159:;=afx\x7f\x80\xff'),
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\r\n",
    b"\r\n ",
    b"0x",
    b"0\r\n\r\n",
    b"1" + b"0" * 16,
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 E\r\n",
    b"HTTP/1.1 110 E\r\nContent-Length: 20\r\n\r\n",
    b"HTTP/1.0",
    b"Content-Length: 1\r\n",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b", chunked",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    SPLIT,
]


@st.composite
def improper_responses(draw: st.DrawFn) -> tuple[bytes, str]:
    raw, method, _ = draw(proper_responses())
    # Most accidents should happen to the parts that matter.
    marks = [0, *(match.end() for match in re.finditer(rb"\r\n|[:;, ]", raw)), len(raw)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(marks) | st.integers(0, len(raw)))
        size = draw(st.sampled_from([0, 0, 1, 2, 5]))
        raw = raw[:at] + draw(st.sampled_from([b"", *ACCIDENTS])) + raw[at + size :]
    return raw, method


@settings(FUZZ, max_examples=400)
@given(response=improper_responses(), ends=SPLITS, end=st.sampled_from(["close", "reset"]))
@example((ACCEPTED["interim-splitting-bare"].raw, "GET"), set(), "close")
def test_an_improper_response_is_never_read_more_freely_than_by_h11(
    loopback: Arena, response: tuple[bytes, str], ends: set[int], end: End
) -> None:
    raw, method = response
    check(loopback, raw, in_pieces(raw, ends), method, end)
