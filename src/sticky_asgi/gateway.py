"""The gateway: routes, what a request is served from, and what a client is told when all fails.

A request goes down the layers once: from here through `call.py`, which has the one retry loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal
from weakref import WeakKeyDictionary

from starlette.types import Receive, Scope, Send

from .call import Call
from .checks import check_type
from .discovery.found import DiscoveredPool
from .discovery.pools import PoolDiscovery, PoolFollower
from .error_response import ErrorResponse, can_refuse, default_error_response, send_error
from .events import (
    Event,
    EventListener,
    IntentChanged,
    Listener,
    Listeners,
    PoolEvent,
    tell,
)
from .exceptions import (
    ClientDisconnected,
    GatewayError,
    NoRoute,
)
from .exchange import Exchange
from .forward_http import HttpExchange
from .forward_websocket import WebSocketExchange
from .inbound import HeadReader, handshake_scope
from .lifespan import serve_lifespan
from .pool import Pool
from .routes import Route, Routes, RouteTable
from .runtime import Runtimes
from .tracebacks import forget_frames
from .trusted_proxies import TrustedProxies
from .upstream import (
    check_transport,
)

logger = logging.getLogger("sticky_asgi")


_NO_READER: tuple[None, tuple[object, ...]] = (None, ())


class Gateway:
    """An ASGI application that passes every request on to a backend of a pool.

    Serve it as it is, or mount it; a mounted application never sees lifespan events, so enter the
    gateway in your own lifespan: `async with gateway:`. Without any lifespan it starts with its
    first request, and says so in the log.

    Args:
        pools: Pools by path prefix, or a list of `Route`. `None` in place of a pool is for
            `GatewayMiddleware`; here, such a request is answered 404, as one without route is.
        trusted_proxies: Addresses and networks of the proxies in front whose X-Forwarded-* and
            Forwarded headers are believed and appended to. Default none: they are replaced.
        error_response: Makes the response to a request that failed in the gateway, from the error
            and the scope. Default: the status and its name as `text/plain`. Keep the error's text
            from clients: it may hold addresses.
        listeners: Told of every request that ended (`Listener`), or of what else happens: retries,
            queueing, changes of health and intent, other backends (`EventListener`).
        forwarded: Whether to write the Forwarded header (RFC 7239) besides X-Forwarded-*.
            Default False.
        max_head: Largest request header section in bytes. Default 65536; beyond it: 431.
        discovery: Finds pools, and routes to them, besides those in `pools`, which may be empty
            then. They are followed as long as the gateway's lifespan lasts.

    Raises:
        ValueError: No route and no discovery, two pools of one name, a bad network, an object as
            `transport` of a pool that is none.
        TypeError: Something else than routes, or a listener that cannot be told.
    """

    def __init__(
        self,
        pools: Routes,
        *,
        trusted_proxies: Sequence[str] = (),
        error_response: ErrorResponse | None = None,
        listeners: Sequence[Listener | EventListener] = (),
        forwarded: bool = False,
        max_head: int = 65536,
        discovery: PoolDiscovery | None = None,
    ) -> None:
        check_type("discovery", discovery, PoolDiscovery, None)
        self.trusted_proxies = TrustedProxies(trusted_proxies)
        self.error_response = error_response or default_error_response
        self.listeners = Listeners(listeners)
        self.forwarded = forwarded
        self.max_head = max_head
        self.discovery = discovery
        #: Several event loops may follow the source of pools, and any thread may replace routes.
        self._lock = threading.RLock()
        self._fixed = _fixed_routes(pools, discovery)
        self._table = self._all_routes()
        self._readers: dict[Pool, tuple[HeadReader, tuple[object, ...]]] = {}
        self._runtimes = Runtimes(lambda: self.pools, self._make_pool_follower)
        self._was_ready = False
        self._observe_pools()
        self._entered: WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncExitStack]] = (
            WeakKeyDictionary()
        )

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, the most specific path first."""
        return self._table.routes

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that the routes lead to."""
        return self._table.pools

    @property
    def is_ready(self) -> bool:
        """Whether each pool knows its backends. Once they do, later failures change nothing: stale
        backends are better than none.
        """
        if not self._was_ready:
            finds = self.discovery
            self._was_ready = (finds is None or finds.status.has_snapshot) and all(
                pool.discovery is None or pool.watch_status.has_snapshot for pool in self.pools
            )
        return self._was_ready

    def replace_routes(
        self, pools: Routes, *, discovery: PoolDiscovery | Literal["keep"] | None = "keep"
    ) -> None:
        """Put other routes in force, at once; what is under way ends as it began.

        Any thread may call it. Raises as the constructor does, and then nothing has changed.

        Args:
            pools: Pools by path prefix, or a list of `Route`.
            discovery: What finds more of them. Pools that were found stay until another source
                has spoken. One that was there takes over what another has, and remains the
                gateway's `discovery`. Default: as before.
        """
        if discovery != "keep":
            check_type("discovery", discovery, PoolDiscovery, None)
        with self._lock:
            before, others = self.discovery, self.discovery if discovery == "keep" else discovery
            self._fixed = _fixed_routes(pools, others)
            # One that serves is not taken out for pools that are new.
            self._was_ready = self.is_ready
            if before is not None and others is not None and others is not before:
                before.adopt(others)
            else:
                self.discovery = others
            if self.discovery is not None:
                self.discovery.make_room(self._fixed)
            self._routes_changed()

    def _all_routes(self) -> RouteTable:
        """The routes of the program, and then those that were found."""
        found = () if self.discovery is None else self.discovery.routes
        return RouteTable([*self._fixed, *found], may_be_empty=self.discovery is not None)

    def _routes_changed(self) -> None:
        self._table = self._all_routes()
        self._readers = {}
        self._runtimes.follow_routes()
        self._runtimes.expect_ends_of_drains()
        self._observe_pools()

    def _make_pool_follower(self) -> PoolFollower:
        def tell_event(event: Event) -> None:
            tell(self.listeners.of_events, event)

        return PoolFollower(lambda: self.discovery, self._follow_pools, tell_event)

    def _follow_pools(self, found: Sequence[DiscoveredPool]) -> None:
        with self._lock:
            if self.discovery is not None and self.discovery.follow(found, self._fixed):
                self._routes_changed()

    def _observe_pools(self) -> None:
        for pool in self.pools:
            pool.observers.add(self)

    def observe(self, pool: Pool, event: PoolEvent) -> None:
        """Act on what a pool says, and pass it on. See `PoolObserver`."""
        if isinstance(event, IntentChanged):
            self._runtimes.expect_end_of_drain(pool, event.backend)
        tell(self.listeners.of_events, event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self, scope, receive, send)
            return
        route = self.match(scope)
        if route is None or route.pool is None:
            await self.refuse(NoRoute("no route"), scope, receive, send)
        else:
            await self.handle(route, route.pool, scope, receive, send)

    def match(self, scope: Scope) -> Route | None:
        """The route that a request takes, or None."""
        route = self._table.match(scope)
        if route is None and self.discovery is not None:
            self._runtimes.miss_lifespan()
        return route

    def reader(self, pool: Pool) -> HeadReader:
        """What reads the header sections of the requests for a pool."""
        rules = (self.trusted_proxies, self.max_head, self.forwarded)
        reader, its_rules = self._readers.get(pool, _NO_READER)
        if reader is None or its_rules != rules:
            reader = HeadReader(pool, *rules)
            self._readers[pool] = (reader, rules)
        return reader

    async def handle(
        self, route: Route, pool: Pool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve one request or WebSocket from a pool."""
        loop = asyncio.get_running_loop()
        runtime = self._runtimes.get(loop) or await self._runtimes.start(loop)
        exchange: Exchange
        if scope["type"] == "http":
            exchange = HttpExchange(receive, send, runtime.watch, loop)
        else:
            scope = handshake_scope(scope)
            exchange = WebSocketExchange(
                receive,
                send,
                runtime.watch,
                loop,
                can_refuse=can_refuse(scope),
                max_message=pool.websocket.max_message,
            )
            await receive()  # The first message says only that the client wants to connect.
        call = Call(pool, scope, exchange, self.reader(pool), self.listeners)
        error: GatewayError | None = None
        try:
            await call.run(route, runtime.clients)
        except ClientDisconnected as exc:
            error = exc
        except GatewayError as exc:
            error = exc
            level = logging.INFO if exc.side == "client" else logging.WARNING
            logger.log(level, "%s %r: %s", scope["method"], scope["path"], exc)
            if not exchange.response_started:
                exchange.status = await self.refuse(exc, scope, receive, send)
            elif scope["type"] == "http":
                # Only an exception makes a server abort a response that has begun.
                raise
        finally:
            if self.listeners.of_requests:
                tell(self.listeners.of_requests, call.finished(error))
            if error is not None:
                # Where it came from is in the log of a server that has to abort the response.
                if error is not sys.exception():
                    forget_frames(error)
                error = None

    async def refuse(self, error: GatewayError, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer a request with an error of the gateway's own, without any affinity cookie."""
        if scope["type"] == "websocket":
            scope = handshake_scope(scope)
        return await send_error(error, self.error_response, scope, receive, send)

    async def __aenter__(self) -> Gateway:
        stack = AsyncExitStack()
        await stack.enter_async_context(self._runtimes.running())
        self._entered.setdefault(asyncio.get_running_loop(), []).append(stack)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entered[asyncio.get_running_loop()].pop().aclose()

    def __repr__(self) -> str:
        return f"<Gateway {', '.join(map(repr, self.routes))}>"


def _fixed_routes(pools: Routes, discovery: PoolDiscovery | None) -> tuple[Route, ...]:
    """The routes of the program, checked."""
    fixed = RouteTable(pools, may_be_empty=discovery is not None)
    for pool in fixed.pools:
        check_transport(pool.transport)
    return fixed.routes
