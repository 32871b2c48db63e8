"""A request as it came in: checked, described for the policies, and made ready for a backend."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Receive, Scope

from .affinity import AffinityStatus
from .backend import Backend
from .exceptions import BodyTooLarge, ClientDisconnected
from .forward_http import ClientBody
from .headers import (
    RequestHead,
    TrustedProxies,
    upstream_headers,
    visitor_address,
    visitor_scheme,
)
from .pool import Pool
from .request import RawHeaders, RequestInfo
from .routes import Route
from .target import path_below_root, raw_path_of, upstream_target
from .upstream import UpstreamRequest

_ANNOUNCED = {
    AffinityStatus.KEPT: b"kept",
    AffinityStatus.MOVED: b"moved",
    AffinityStatus.LOST: b"lost",
}


class InboundRequest:
    """One request for a pool.

    Args:
        scope: The ASGI scope.
        route: The route it takes.
        pool: The pool that the route leads to.
        trusted: The proxies whose word counts.
        max_head: Bytes its header section may have.
        rfc7239: Whether to write the Forwarded header too.

    Attributes:
        info: What the policies may know of it.
        target: What the backend is asked for.

    Raises:
        ClientError: It must not be forwarded.
    """

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
        self._scope = scope
        self._pool = pool
        self._version: str = scope.get("http_version", "1.1")
        prefix = route.path if route.strip_prefix and route.path != "/" else ""
        self.target = upstream_target(scope, strip_prefix=prefix)
        # The request line is part of the head, and a server may have let a long one pass.
        left = max_head - len(self.target)
        self._head = RequestHead(scope["headers"], http_version=self._version, limit=left)
        limit, length = pool.limits.max_body, self._head.content_length
        if limit is not None and length is not None and length > limit:
            raise BodyTooLarge(f"request body of {length} bytes, over {limit}")
        self.info = self._describe(trusted)
        self._headers = self._rewrite(trusted, rfc7239=rfc7239)
        if prefix:
            self._headers.append((b"x-forwarded-prefix", prefix.encode()))

    @property
    def _peer(self) -> str | None:
        client: Sequence[str] | None = self._scope.get("client")
        return client[0] if client else None

    def _describe(self, trusted: TrustedProxies) -> RequestInfo:
        scope, head, peer = self._scope, self._head, self._peer
        return RequestInfo(
            method=scope["method"],
            path=path_below_root(scope),
            raw_path=raw_path_of(scope),
            query_string=scope.get("query_string", b""),
            headers=head.headers,
            scheme=visitor_scheme(scope.get("scheme", "http"), head, is_trusted=peer in trusted),
            host=head.host,
            client=visitor_address(peer, head.forwarded.get(b"x-forwarded-for", ()), trusted),
        )

    def _rewrite(self, trusted: TrustedProxies, *, rfc7239: bool) -> RawHeaders:
        peer = self._peer
        headers = upstream_headers(
            self._head,
            keep_host=self._pool.host == "pass",
            peer=peer,
            scheme=self.info.scheme,
            is_trusted=peer in trusted,
            rfc7239=rfc7239,
        )
        return self._pool.strip_affinity(headers)

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
            if self._version < "2":
                return None
            # HTTP/2 and later frame a body without any header: only its first piece tells.
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
        headers = self._headers
        if self._pool.announces:
            headers = [*headers, (b"sticky-session", _ANNOUNCED.get(status, b"new"))]
        if self._pool.host == "backend" or self._head.host is None:
            headers = [(b"host", backend.authority.encode("ascii")), *headers]
        return UpstreamRequest(
            self.info.method,
            self.target,
            headers,
            body,
            scheme=self.info.scheme,
            client=self._scope.get("client"),
        )

    def __repr__(self) -> str:
        return f"<InboundRequest {self.info.method} {self.target!r}>"
