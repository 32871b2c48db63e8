"""Rules for header sections: what is refused, removed, kept and added on the way through.

Pure functions over raw header lists. They work on lists, not on mappings, so order, duplicates
and bytes survive; names come and go in lower case, as ASGI has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from .exceptions import BadRequest, HeadTooLarge, MalformedResponse
from .request import RawHeader, RawHeaders

#: Fields that concern one connection only (RFC 9110 §7.6.1), and Proxy-Connection and Keep-Alive,
#: which the same section tells intermediaries to remove although they are not standard.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Never passed on as the client sent them: Expect is answered by the server in front (RFC 9110
#: §10.1.1), and the others are the gateway's to say.
_REPLACED = frozenset(
    {
        b"expect",
        b"sticky-session",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
    }
)
#: What only a trusted proxy may tell the backends.
_TRUSTED_ONLY = frozenset({b"forwarded", b"x-forwarded-prefix", b"x-real-ip"})

_DROPPED = HOP_BY_HOP | _REPLACED

#: What a WebSocket handshake says of one connection only (RFC 6455 §11.3), and the length of the
#: body that it does not have. Sec-WebSocket-Protocol is between the client and the application.
_OF_HANDSHAKE = frozenset(
    {
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)

#: What a name in lower case may hold (RFC 9110 §5.6.2).
_LOWER_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
#: What a field value may hold.
FIELD_TEXT = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # RFC 9110 §5.5
_NO_NAMES: frozenset[bytes] = frozenset()
_NO_OPTIONS = frozenset({b"content-length", b"close", b"keep-alive"})
_NO_FORWARDED: Mapping[bytes, list[bytes]] = MappingProxyType({})
# RFC 3986 §3.2.2 and a port; an address with colons is bracketed.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[A-Za-z0-9\-._~%!$&'()*+,;=:]+\])(?::[0-9]*)?"
)
#: A length; longer numbers are none that anybody means.
DIGITS = re.compile(rb"[0-9]{1,18}")


class RequestHead:
    """A request's header section, checked, with what the gateway itself must know of it.

    Attributes:
        headers: All fields: names in lower case, values without white space around them.
        passed: The fields that go to the backend whoever sent them: not those that concern one
            connection, nor those that are the gateway's to say.
        host: The Host field's value, or None (HTTP/1.0 only).
        content_length: Declared length of the body, or None.
        is_chunked: Whether the body is announced by Transfer-Encoding.
        connection: Field names that `Connection` lists.
        forwarded: The forwarded headers of the client, values in order.
        size: Its bytes, at four for what goes between and behind a name and a value.
        makes_claims: Whether `passed` may hold what only a trusted proxy may tell, or a name
            that looks like another one.
    """

    __slots__ = (
        "connection",
        "content_length",
        "forwarded",
        "headers",
        "host",
        "is_chunked",
        "makes_claims",
        "passed",
        "size",
    )

    def __init__(
        self, headers: Sequence[RawHeader], *, http_version: str, limit: int = 65536
    ) -> None:
        self.headers, names, self.size = _checked_fields(headers, limit)
        self.passed = self.headers
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.is_chunked = False
        self.connection: frozenset[bytes] = _NO_NAMES
        self.forwarded: Mapping[bytes, list[bytes]] = _NO_FORWARDED
        # Looked for in all names at once; a false alarm across two of them does no harm. (And
        # `in` would be slower: it tries its operand as a number first.)
        joined = b"".join(names)
        self.makes_claims = (
            joined.find(b"_") >= 0 or joined.find(b"forwarded") >= 0 or joined.find(b"x-real") >= 0
        )
        if not _DROPPED.isdisjoint(names):
            self._set_apart()
        if b"content-length" in names:
            self._read_length()
        if self.is_chunked and http_version == "1.0":
            # RFC 9112 §6.1: whoever passed it on may have framed it differently.
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
        hosts = names.count(b"host")
        if hosts:
            self.host = self.headers[names.index(b"host")][1]
            if not _HOST.fullmatch(self.host):
                raise BadRequest(f"malformed Host {self.host!r}")
        if hosts > 1 or (hosts == 0 and http_version == "1.1"):
            # RFC 9112 §3.2
            raise BadRequest(f"{hosts or 'no'} Host fields")
        if http_version >= "2":
            self._join_crumbs()

    def _set_apart(self) -> None:
        """Take note of the fields that are not passed on."""
        self.passed = [field for field in self.headers if field[0] not in _DROPPED]
        forwarded: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            if name == b"transfer-encoding":
                self._read_coding(value)
            elif name == b"connection":
                self.connection |= listed(value)
            elif name in _REPLACED and name != b"expect":
                forwarded.setdefault(name, []).append(value)
        self.forwarded = forwarded

    def _read_length(self) -> None:
        # RFC 9112 §6.3 rule 5: a list of equal lengths may be taken for one; we refuse the list
        # and accept repeated equal fields.
        fields = [field for field in self.headers if field[0] == b"content-length"]
        for _, value in fields:
            if not DIGITS.fullmatch(value):
                raise BadRequest(f"malformed Content-Length {value!r}")
        if len({int(value) for _, value in fields}) > 1:
            raise BadRequest("unequal Content-Length fields")
        if self.is_chunked:
            # RFC 9112 §6.3: an attempt at request smuggling, or as good as one.
            raise BadRequest("both Transfer-Encoding and Content-Length")
        self.content_length = int(fields[0][1])
        if len(fields) > 1:
            first = self.passed.index(fields[0])
            self.passed = [
                field
                for index, field in enumerate(self.passed)
                if index == first or field[0] != b"content-length"
            ]

    def _read_coding(self, value: bytes) -> None:
        # RFC 9112 §6.1: a coding that the gateway does not know cannot be framed safely.
        if self.is_chunked or value.strip(b" \t").lower() != b"chunked":
            raise BadRequest(f"unsupported Transfer-Encoding {value!r}")
        self.is_chunked = True

    def _join_crumbs(self) -> None:
        # RFC 9113 §8.2.3: HTTP/2 may split Cookie; for other versions it must be one field again.
        crumbs = [value for name, value in self.headers if name == b"cookie"]
        if len(crumbs) > 1:
            joined = (b"cookie", b"; ".join(crumbs))
            self.headers = [field for field in self.headers if field[0] != b"cookie"] + [joined]
            self.passed = [field for field in self.passed if field[0] != b"cookie"] + [joined]

    def __repr__(self) -> str:
        return f"<RequestHead {len(self.headers)} fields>"


def listed(value: bytes) -> frozenset[bytes]:
    """The members of a comma-separated list, in lower case."""
    return _LISTS.get(value) or frozenset(_members(value))


def _members(value: bytes) -> set[bytes]:
    return {part.strip(b" \t").lower() for part in value.split(b",")} - {b""}


#: What Connection says nearly always.
_LISTS = {
    value: frozenset(_members(value))
    for value in (b"keep-alive", b"close", b"Keep-Alive", b"Close", b"upgrade", b"Upgrade")
}


def _checked_fields(
    headers: Sequence[RawHeader], limit: int
) -> tuple[RawHeaders, Sequence[bytes], int]:
    """A copy of a request's fields in normal form, their names, and their size.

    A copy, because uvicorn's httptools protocol appends the trailers of a chunked body to the
    list in the scope, after it has been checked. It also leaves the white space behind a value,
    which is not part of it (RFC 9110 §5.5).
    """
    if not headers:
        return [], [], 0
    names, values = zip(*headers)  # noqa: B905 - pairs are as long as each other
    joined, text = b"".join(names), b"".join(values)
    size = len(joined) + len(text) + 4 * len(names)
    if size > limit:
        raise HeadTooLarge("request head too large")
    if joined.translate(None, _LOWER_TOKEN) or (*map(bytes.strip, values),) != values:
        headers = [(name.lower(), value.strip(b" \t")) for name, value in headers]
        names = tuple(name for name, _ in headers)
        joined = joined.lower()
    else:
        headers = list(headers)
    if fault := _field_fault(names, joined, text):
        raise BadRequest(fault)
    return headers, names, size


def _field_fault(names: Sequence[bytes], joined: bytes, text: bytes) -> str | None:
    """What is wrong with one of the fields. All are looked at in one sweep, for speed.

    Args:
        names: The names.
        joined: The names in lower case, one after another.
        text: The values, one after another.
    """
    if b"" in names or joined.translate(None, _LOWER_TOKEN):
        return "malformed header name"
    if text.translate(None, FIELD_TEXT):
        return "control character in a header value"
    return None


def upstream_headers(
    head: RequestHead,
    passed: RawHeaders,
    *,
    keep_host: bool,
    peer: str | None,
    scheme: str,
    is_trusted: bool,
    rfc7239: bool = False,
) -> RawHeaders:
    """The header section for the backend, but for the framing of a body.

    Args:
        head: The request's own header section.
        passed: What of it goes to the backend, which may be less than `head.passed`.
        keep_host: Whether the client's Host is passed on; else the caller adds another.
        peer: Address of the connection's other end, if it has one.
        scheme: Scheme the visitor used.
        is_trusted: Whether the peer's forwarded headers are appended to, else replaced.
        rfc7239: Whether to write the Forwarded header (RFC 7239) as well.
    """
    if head.makes_claims:
        passed = [field for field in passed if not _is_claim(field[0], is_trusted)]
    named = head.connection
    if named:
        # Host and Content-Length are not options of a connection, whatever Connection says.
        named -= {b"host", b"content-length", b"keep-alive", b"close"}
    if not keep_host:
        named |= {b"host"}
    if named:
        passed = [field for field in passed if field[0] not in named]
    if is_trusted and head.forwarded:
        result = [*passed, *_appended(head, peer, scheme)]
    else:
        result = [*passed, *_forwarded_fields(peer, head.host, scheme)]
    if rfc7239:
        result.append((b"forwarded", _forwarded_element(peer, head.host, scheme)))
    return result


def handshake_headers(head: RequestHead, upstream: RawHeaders) -> RawHeaders:
    """The header section of a WebSocket handshake for the backend, but for what it is given there.

    Args:
        head: The client's header section.
        upstream: What `upstream_headers` made of it.

    Raises:
        BadRequest: The handshake has a body. Whoever does not read it takes it for messages.
    """
    if head.is_chunked or head.content_length:
        raise BadRequest("a WebSocket handshake with a body")
    return [
        (name, value)
        for name, value in upstream
        # A list of no subprotocols at all is malformed (RFC 6455 §11.3.4).
        if name not in _OF_HANDSHAKE and (name != b"sec-websocket-protocol" or value.strip(b", \t"))
    ]


def _is_claim(name: bytes, is_trusted: bool) -> bool:
    # CGI and WSGI take `X_Forwarded_For` for `X-Forwarded-For`.
    name = name.replace(b"_", b"-")
    if is_trusted:
        return name in _DROPPED
    return name in _DROPPED or name in _TRUSTED_ONLY or name.startswith(b"x-forwarded-")


def _forwarded_fields(peer: str | None, host: bytes | None, scheme: str) -> RawHeaders:
    """What the gateway itself says of a request."""
    fields = [(b"x-forwarded-proto", scheme.encode("ascii"))]
    if peer:
        fields.insert(0, (b"x-forwarded-for", peer.encode("latin-1", "replace")))
    if host is not None:
        fields.append((b"x-forwarded-host", host))
    fields.append((b"x-forwarded-port", _port_of(host, scheme)))
    return fields


def _appended(head: RequestHead, peer: str | None, scheme: str) -> RawHeaders:
    """What a trusted proxy said, and what the gateway has to add."""
    told = head.forwarded
    fields: RawHeaders = []
    hops = told.get(b"x-forwarded-for", [])
    if peer:
        hops = [*hops, peer.encode("latin-1", "replace")]
    if hops:
        fields.append((b"x-forwarded-for", b", ".join(hops)))
    fields.append((b"x-forwarded-proto", scheme.encode("ascii")))
    host = told.get(b"x-forwarded-host", [head.host])[-1]
    if host is not None:
        fields.append((b"x-forwarded-host", host))
    port = told.get(b"x-forwarded-port", [b""])[-1]
    fields.append((b"x-forwarded-port", port if port.isdigit() else _port_of(host, scheme)))
    return fields


def _port_of(host: bytes | None, scheme: str) -> bytes:
    if host is not None:
        _, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            return port
    return b"443" if scheme == "https" else b"80"


def _forwarded_element(peer: str | None, host: bytes | None, scheme: str) -> bytes:
    # RFC 7239 §6: an IPv6 address is bracketed and quoted; an unknown one has its own word.
    node = "unknown" if not peer else f'"[{peer}]"' if ":" in peer else peer
    parts = [b"for=" + node.encode("latin-1", "replace")]
    if host:
        parts.append(b'host="' + host + b'"')
    parts.append(b"proto=" + scheme.encode("ascii"))
    return b";".join(parts)


def downstream_headers(headers: RawHeaders, *, status: int) -> RawHeaders:
    """The header section for the client, of a backend's response that was not yet checked.

    Raises:
        MalformedResponse: A field that must not be passed on.
    """
    headers = [(name.lower(), value) for name, value in headers]
    names = [name for name, _ in headers]
    text = b"".join([value for _, value in headers])
    if fault := _field_fault(names, b"".join(names), text):
        raise MalformedResponse(f"{fault} of the response")
    return end_to_end(headers, status=status)


def end_to_end(headers: RawHeaders, *, status: int) -> RawHeaders:
    """A response's fields without those that concern one connection. Names in lower case."""
    result: RawHeaders = []
    connection = _NO_NAMES
    has_coding = False
    for field in headers:
        name = field[0]
        if name not in HOP_BY_HOP:
            result.append(field)
        elif name == b"connection":
            connection |= listed(field[1])
        elif name == b"transfer-encoding":
            has_coding = True
    dropped = not_end_to_end(connection, status=status)
    if has_coding:
        # RFC 9112 §6.3: where it won, it is left to us to remove the length that lost.
        dropped = dropped | {b"content-length"}
    return [field for field in result if field[0] not in dropped] if dropped else result


def not_end_to_end(connection: frozenset[bytes], *, status: int) -> frozenset[bytes]:
    """Fields besides those of `HOP_BY_HOP` that a response is passed on without.

    Args:
        connection: What its Connection fields list.
        status: Its status.
    """
    if status in (204, 304):
        # RFC 9110 §8.6: no Content-Length with 204. With 304 it is optional, and a server that
        # counts body bytes against it takes the missing body for an error.
        return connection | {b"content-length"}
    # "close" and "keep-alive" are no fields, and Content-Length is no option of a connection.
    return connection - _NO_OPTIONS if connection else connection


#: Statuses that caches may keep without being told to (RFC 9110 §15.1).
_CACHEABLE = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})


def is_cacheable(method: str, status: int, headers: RawHeaders) -> bool:
    """Whether a shared cache might keep this response though no Cache-Control says so."""
    return (
        method in ("GET", "HEAD")
        and status in _CACHEABLE
        and not any(name == b"cache-control" for name, _ in headers)
    )
