"""A request as it came in: checked, described for the policies, and made ready for a backend."""

from __future__ import annotations

from starlette.types import Receive, Scope

from .affinity import AffinityStatus
from .backend import Backend
from .client_body import ClientBody
from .exceptions import BodyTooLarge, ClientDisconnected
from .headers import (
    RequestHead,
    TrustedProxies,
    upstream_headers,
    visitor_address,
    visitor_scheme,
)
from .pool import Pool
from .request import RequestInfo
from .routes import Route
from .target import path_below_root, raw_path_of, upstream_target
from .upstream import UpstreamRequest

_ANNOUNCED = {
    AffinityStatus.KEPT: b"kept",
    AffinityStatus.MOVED: b"moved",
    AffinityStatus.LOST: b"lost",
}


class InboundRequest(RequestInfo):
    """One request for a pool; to the policies a `RequestInfo`.

    Args:
        scope: The ASGI scope.
        route: The route it takes.
        pool: The pool that the route leads to.
        trusted: The proxies whose word counts.
        max_head: Bytes its header section may have.
        rfc7239: Whether to write the Forwarded header too.

    Attributes:
        target: What the backend is asked for.

    Raises:
        ClientError: It must not be forwarded.
    """

    __slots__ = ("_client", "_head", "_headers", "_pool", "_version", "target")

    def __init__(
        self,
        scope: Scope,
        route: Route,
        pool: Pool,
        *,
        trusted: TrustedProxies,
        max_head: int,
        rfc7239: bool,
    ) -> None:
        self._pool = pool
        self._version: str = scope.get("http_version", "1.1")
        self._client: tuple[str, int] | None = scope.get("client")
        prefix = route.path if route.strip_prefix and route.path != "/" else ""
        self.target = target = upstream_target(scope, strip_prefix=prefix)
        # The request line is part of the head, and a server may have let a long one pass.
        self._head = head = RequestHead(
            scope["headers"], http_version=self._version, limit=max_head - len(target)
        )
        limit, length = pool.limits.max_body, head.content_length
        if limit is not None and length is not None and length > limit:
            raise BodyTooLarge(f"request body of {length} bytes, over {limit}")
        peer = self._client[0] if self._client else None
        is_trusted = peer in trusted
        self.method = scope["method"]
        self.path = path_below_root(scope)
        self.raw_path = raw_path_of(scope)
        self.query_string = scope.get("query_string", b"")
        self.headers = head.headers
        self.scheme = visitor_scheme(scope.get("scheme", "http"), head, is_trusted)
        self.host = head.host
        self.client = peer
        if is_trusted:
            self.client = visitor_address(peer, head.forwarded.get(b"x-forwarded-for", ()), trusted)
        self._headers = headers = upstream_headers(
            head,
            pool.strip_affinity(head.passed),
            keep_host=pool.host == "pass",
            peer=peer,
            scheme=self.scheme,
            is_trusted=is_trusted,
            rfc7239=rfc7239,
        )
        if prefix:
            headers.append((b"x-forwarded-prefix", prefix.encode()))

    @property
    def may_have_body(self) -> bool:
        """Whether `open_body` has something to do."""
        head = self._head
        # HTTP/2 and later frame a body without any header.
        return head.is_chunked or bool(head.content_length) or self._version >= "2"

    async def open_body(self, receive: Receive) -> ClientBody | None:
        """The request's body, or None if it has none.

        Raises:
            ClientDisconnected: The client left before it could be told.
        """
        head = self._head
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
        self._headers.append((b"transfer-encoding", b"chunked"))
        return body

    def for_backend(
        self, backend: Backend, body: ClientBody | None, status: AffinityStatus
    ) -> UpstreamRequest:
        """The request as one backend is sent it."""
        pool, headers = self._pool, self._headers
        if pool.announces:
            headers = [*headers, (b"sticky-session", _ANNOUNCED.get(status, b"new"))]
        if pool.host == "backend" or self.host is None:
            headers = [(b"host", backend.authority.encode("ascii")), *headers]
        return UpstreamRequest(
            self.method, self.target, headers, body, scheme=self.scheme, client=self._client
        )

    def __repr__(self) -> str:
        return f"<InboundRequest {self.method} {self.target!r}>"
