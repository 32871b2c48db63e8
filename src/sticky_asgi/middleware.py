"""The gateway as middleware: what a route leads to a pool goes there, the rest to the app."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from .discovery.pools import PoolDiscovery
from .error_response import ErrorResponse
from .events import EventListener, Listener
from .gateway import Gateway
from .lifespan import serve_lifespan
from .routes import Routes


class GatewayMiddleware:
    """Puts a gateway before an application.

    Args:
        app: The application inside.
        pools: Pools by path prefix, or a list of `Route`. `None` in place of a pool leaves these
            requests to the application, as does no match.
        trusted_proxies: See `Gateway`.
        error_response: See `Gateway`.
        listeners: See `Gateway`.
        forwarded: See `Gateway`.
        max_head: See `Gateway`.
        discovery: See `Gateway`.

    Raises:
        ValueError: See `Gateway`.
        TypeError: See `Gateway`.

    Example:
        app.add_middleware(GatewayMiddleware, pools={"/": shop, "/local": None})
    """

    def __init__(
        self,
        app: ASGIApp,
        pools: Routes,
        *,
        trusted_proxies: Sequence[str] = (),
        error_response: ErrorResponse | None = None,
        listeners: Sequence[Listener | EventListener] = (),
        forwarded: bool = False,
        max_head: int = 65536,
        discovery: PoolDiscovery | None = None,
    ) -> None:
        self.app = app
        self.gateway = Gateway(
            pools,
            trusted_proxies=trusted_proxies,
            error_response=error_response,
            listeners=listeners,
            forwarded=forwarded,
            max_head=max_head,
            discovery=discovery,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self.gateway, scope, receive, send, self.app)
            return
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        route = self.gateway.match(scope)
        if route is None or route.pool is None:
            await self.app(scope, receive, send)
        else:
            await self.gateway.handle(route, route.pool, scope, receive, send)
