"""A request as it came in: checked, described for the policies, and made ready for a backend."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from starlette.types import Receive, Scope

from .affinity import AffinityStatus
from .backend import Backend
from .client_body import ClientBody
from .exceptions import BodyTooLarge, ClientDisconnected, HeadTooLarge
from .headers import RequestHead, handshake_headers, upstream_headers
from .memo import Memo
from .pool import Pool
from .request import RawHeader, RawHeaders, RequestInfo
from .routes import Route
from .target import path_below_root, raw_path_of, upstream_target
from .trusted_proxies import TrustedProxies, visitor_address, visitor_scheme
from .upstream import UpstreamRequest, header_lines

_ANNOUNCED = {
    AffinityStatus.KEPT: b"kept",
    AffinityStatus.MOVED: b"moved",
    AffinityStatus.LOST: b"lost",
}

#: Header sections that are remembered for each pool; the most bytes and fields of one.
_REMEMBERED = 1024
_LARGEST = 4096
_MOST_FIELDS = 64


class ReadHead(NamedTuple):
    """What a header section comes to, for one pool and one client."""

    head: RequestHead
    scheme: str
    client: str | None
    cookies: Sequence[bytes]
    may_have_body: bool
    #: What the backend gets, but for what depends on the request line, the body or the backend.
    upstream: RawHeaders
    #: The same, as HTTP/1.1 writes it, if it may be written so.
    lines: bytes | None


class HeadReader:
    """Applies the rules for header sections to the requests for one pool.

    Clients repeat themselves: but for its first line, a request mostly reads like the last one
    from the same client. (Header compression in HTTP/2 rests on that: RFC 7541 §1.) So what the
    rules make of a header section is remembered. It depends on nothing but the section, the
    connection it came by, and the settings.

    Args:
        pool: The pool.
        trusted: The proxies whose word counts.
        max_head: Bytes a header section may have.
        rfc7239: Whether to write the Forwarded header too.
    """

    def __init__(self, pool: Pool, trusted: TrustedProxies, max_head: int, rfc7239: bool) -> None:
        self.pool = pool
        self.max_head = max_head
        self._trusted = trusted
        self._rfc7239 = rfc7239
        self._memo: Memo[Hashable, ReadHead] = Memo(_REMEMBERED)

    def read(self, scope: Scope) -> ReadHead:
        """The header section of a request. Raises ClientError if it must not be forwarded."""
        client = scope.get("client")
        peer = client[0] if client else None
        version, scheme = scope.get("http_version", "1.1"), scope.get("scheme", "http")
        kind, headers = scope["type"], tuple(scope["headers"])
        key = (self.pool.policies_version, kind, peer, version, scheme, headers)
        try:
            known = self._memo.get(key)
        except TypeError:  # Not every server's pairs are tuples.
            return self._read(kind, headers, version, scheme, peer)
        if known is None:
            known = self._read(kind, headers, version, scheme, peer)
            if known.head.size <= _LARGEST and len(headers) <= _MOST_FIELDS:
                self._memo.offer(key, known)
        return known

    def _read(
        self, kind: str, headers: Sequence[RawHeader], version: str, scheme: str, peer: str | None
    ) -> ReadHead:
        head = RequestHead(headers, http_version=version, limit=self.max_head)
        pool, trusted = self.pool, self._trusted
        is_handshake = kind == "websocket"
        is_trusted = peer in trusted
        scheme = visitor_scheme(scheme, head.forwarded, is_trusted)
        upstream = upstream_headers(
            head,
            # A list of its own: whoever strips it may do so in place.
            pool.visitors.strip([*head.passed]),
            keep_host=pool.host == "pass",
            peer=peer,
            scheme=scheme,
            is_trusted=is_trusted,
            rfc7239=self._rfc7239,
        )
        if is_handshake:
            upstream = handshake_headers(head, upstream)
        client = visitor_address(peer, head.forwarded.get(b"x-forwarded-for", ()), trusted)
        cookies = [value for name, value in head.headers if name == b"cookie"]
        # HTTP/2 and later frame a body without any header.
        may_have_body = head.is_chunked or bool(head.content_length) or version >= "2"
        may_have_body = may_have_body and not is_handshake
        is_final = pool.host == "pass" and not pool.visitors.announces and pool.transport is None
        lines = header_lines(upstream) if is_final else None
        return ReadHead(head, scheme, client, cookies, may_have_body, upstream, lines)


def handshake_scope(scope: Scope) -> Scope:
    """A WebSocket's scope as that of the GET request which opens it (RFC 6455 §4.1)."""
    headers, offered = scope["headers"], scope.get("subprotocols")
    if offered and not any(name == b"sec-websocket-protocol" for name, _ in headers):
        # uvicorn with wsproto takes this field out of the others.
        headers = [*headers, (b"sec-websocket-protocol", ", ".join(offered).encode("latin-1"))]
    scheme = "wss" if scope.get("scheme") in ("wss", "https") else "ws"
    return {**scope, "method": "GET", "scheme": scheme, "headers": headers}


class InboundRequest(RequestInfo):
    """One request for a pool; to the policies a `RequestInfo`.

    Args:
        scope: The ASGI scope.
        route: The route it takes.
        reader: Reads its header section for the pool that the route leads to.

    Attributes:
        target: What the backend is asked for.
        may_have_body: Whether `open_body` has something to do.

    Raises:
        ClientError: It must not be forwarded.
    """

    __slots__ = ("_headers", "_pool", "_scope", "_section", "may_have_body", "target")

    def __init__(self, scope: Scope, route: Route, reader: HeadReader) -> None:
        self._scope = scope
        self._section = section = reader.read(scope)
        head, self.scheme, self.client, _, self.may_have_body, self._headers, _ = section
        prefix = route.path if route.strip_prefix and route.path != "/" else ""
        self.target = target = upstream_target(scope, strip_prefix=prefix)
        # The request line is part of the head, and a server may have let a long one pass.
        if head.size + len(target) > reader.max_head:
            raise HeadTooLarge("request head too large")
        self._pool = pool = reader.pool
        length = head.content_length
        if length and pool.limits.max_body is not None and length > pool.limits.max_body:
            raise BodyTooLarge(f"request body of {length} bytes, over {pool.limits.max_body}")
        if prefix:
            self._headers = [*self._headers, (b"x-forwarded-prefix", prefix.encode())]
        self.method = scope["method"]
        self.path = path_below_root(scope)
        self.raw_path = raw_path_of(scope)
        self.query_string = scope.get("query_string", b"")
        self.headers = head.headers
        self.host = head.host

    def cookie_fields(self) -> Sequence[bytes]:
        return self._section.cookies

    async def open_body(self, receive: Receive) -> ClientBody | None:
        """The request's body, or None if it has none.

        Raises:
            ClientDisconnected: The client left before it could be told.
        """
        head = self._section.head
        body = ClientBody(
            keep=self._pool.retry.replay_limit,
            max_body=self._pool.limits.max_body,
            length=head.content_length,
        )
        if head.content_length is not None:
            return body if head.content_length else None
        if not head.is_chunked:
            # Only the first piece tells.
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected("the client left")
            piece, is_last = message.get("body", b""), not message.get("more_body", False)
            if is_last and not piece:
                return None
            body.feed(piece, is_last=is_last)
        self._headers = [*self._headers, (b"transfer-encoding", b"chunked")]
        return body

    def for_backend(
        self, backend: Backend, body: ClientBody | None, status: AffinityStatus
    ) -> UpstreamRequest:
        """The request as one backend is sent it."""
        pool, headers = self._pool, self._headers
        if pool.visitors.announces:
            headers = [*headers, (b"sticky-session", _ANNOUNCED.get(status, b"new"))]
        if pool.host == "backend" or self.host is None:
            headers = [(b"host", backend.authority.encode("ascii")), *headers]
        return UpstreamRequest(
            self.method,
            self.target,
            headers,
            body,
            scheme=self.scheme,
            client=self._scope.get("client"),
            lines=self._section.lines if headers is self._section.upstream else None,
        )

    def __repr__(self) -> str:
        return f"<InboundRequest {self.method} {self.target!r}>"
