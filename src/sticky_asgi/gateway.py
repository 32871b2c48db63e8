"""The gateway: routes, the one retry loop, and what a client is told when all fails.

A request goes down the layers once. Whatever fails on the way comes back here, to the loop in
`_Call`, which alone decides whether there is another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from weakref import WeakKeyDictionary

from starlette.types import Receive, Scope, Send

from .affinity import AffinityStatus, Resolution
from .backend import BackendState
from .error_response import ErrorResponse, can_refuse, default_error_response, send_error
from .events import (
    EventListener,
    IntentChanged,
    Listener,
    Listeners,
    PoolEvent,
    RequestFinished,
    RequestQueued,
    RequestRetried,
    tell,
)
from .exceptions import (
    BackendsBusy,
    ClientDisconnected,
    ConnectError,
    ConnectTimeout,
    GatewayError,
    NoBackendAvailable,
    NoRoute,
    QueueFull,
    QueueTimeout,
    ResponseTimeout,
    StaleConnection,
    UnwantedStatus,
    UpstreamError,
)
from .exchange import Exchange
from .forward_http import HttpExchange
from .forward_websocket import WebSocketExchange
from .headers import is_cacheable
from .inbound import HeadReader, InboundRequest, handshake_scope
from .lifespan import serve_lifespan
from .pool import Lease, Pool
from .request import RawHeader, RequestInfo
from .routes import Route, Routes, RouteTable
from .runtime import Runtimes
from .target import raw_path_of
from .trusted_proxies import TrustedProxies
from .upstream import (
    Clients,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamWebSocket,
    check_transport,
)

logger = logging.getLogger("sticky_asgi")


NOBODY_LEFT = "every backend was tried, and failed"

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

    Raises:
        ValueError: No route, two pools of one name, a bad network, an object as `transport` of a
            pool that is none.
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
    ) -> None:
        self.trusted_proxies = TrustedProxies(trusted_proxies)
        self.error_response = error_response or default_error_response
        self.listeners = Listeners(listeners)
        self.forwarded = forwarded
        self.max_head = max_head
        self._table = _checked(pools)
        self._readers: dict[Pool, tuple[HeadReader, tuple[object, ...]]] = {}
        self._runtimes = Runtimes(lambda: self.pools)
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

    def replace_routes(self, pools: Routes) -> None:
        """Put other routes in force, at once; what is under way ends as it began.

        Call it in the event loop that serves. Raises as the constructor does, and then nothing
        has changed.
        """
        self._table = _checked(pools)
        self._readers = {}
        self._runtimes.follow_routes()
        self._runtimes.expect_ends_of_drains()
        self._observe_pools()

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
        return self._table.match(scope)

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
        call = _Call(self, pool, scope, exchange)
        error: GatewayError | None = None
        try:
            await call.run(route, runtime.clients)
        except ClientDisconnected as exc:
            error = exc
            _forget_frames(exc)
        except GatewayError as exc:
            error = exc
            level = logging.INFO if exc.side == "client" else logging.WARNING
            logger.log(level, "%s %r: %s", scope["method"], scope["path"], exc)
            if not exchange.response_started:
                exchange.status = await self.refuse(exc, scope, receive, send)
            elif scope["type"] == "http":
                # Only an exception makes a server abort a response that has begun.
                raise
            _forget_frames(exc)
        finally:
            if self.listeners.of_requests:
                tell(self.listeners.of_requests, call.finished(error))
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


def _checked(pools: Routes) -> RouteTable:
    table = RouteTable(pools)
    for pool in table.pools:
        check_transport(pool.transport)
    return table


def _forget_frames(error: BaseException) -> None:
    """Let go of where an error that has been dealt with came from.

    Its traceback holds frames, these hold the exchange with its body, and that the error: a circle
    that would last until the garbage collector comes by.
    """
    error.__traceback__ = None
    for earlier in (error.__cause__, error.__context__):
        # Errors that are raised in other tasks than they come from may be each other's context.
        if earlier is not None and earlier.__traceback__ is not None:
            _forget_frames(earlier)


class _Call:
    """One request on its way through the gateway: how far it has come, and what it met."""

    __slots__ = (
        "attempt_began",
        "attempts",
        "began",
        "exchange",
        "first_byte",
        "gateway",
        "has_asked_all",
        "inbound",
        "is_repeating",
        "patience",
        "pool",
        "resolution",
        "scope",
        "state",
        "tried",
    )

    def __init__(self, gateway: Gateway, pool: Pool, scope: Scope, exchange: Exchange) -> None:
        self.gateway = gateway
        self.pool = pool
        self.scope = scope
        self.exchange = exchange
        self.began = self.attempt_began = time.perf_counter()
        self.first_byte: float | None = None
        self.attempts = 0
        self.tried: Collection[str] = ()
        self.state: BackendState | None = None
        self.inbound: InboundRequest | None = None
        self.resolution: Resolution | None = None
        self.is_repeating = False
        self.has_asked_all = False
        self.patience: asyncio.Timeout | None = None

    @property
    def path(self) -> str:
        """The raw request path."""
        return raw_path_of(self.scope).decode("latin-1")

    async def run(self, route: Route, clients: Clients) -> None:
        """Serve the request. Raises GatewayError if that fails."""
        pool, exchange = self.pool, self.exchange
        self.inbound = inbound = InboundRequest(self.scope, route, self.gateway.reader(pool))
        if inbound.may_have_body:
            exchange.body = await inbound.open_body(exchange.receive)
        self.resolution = resolution = pool.resolve(inbound)
        try:
            with exchange:
                if exchange.body is not None:
                    await exchange.take_first_piece()
                await self._try_backends(clients, inbound, resolution)
        finally:
            self._end_repeat()

    async def _try_backends(
        self, clients: Clients, inbound: InboundRequest, resolution: Resolution
    ) -> None:
        """The one retry loop."""
        failure: UpstreamError | None = None
        while True:
            try:
                lease = self._pick(inbound, resolution)
            except BackendsBusy:
                lease = await self._wait_for_turn(inbound, resolution, failure)
            except NoBackendAvailable as exc:
                if failure is None or not self._may_ask_again(failure, resolution):
                    raise _verdict(failure, exc) from failure
                await asyncio.sleep(self.pool.retry.pause(self.attempts))
                continue
            with lease as state:
                self.state = state
                self.attempts += 1
                self.attempt_began = time.perf_counter()
                self.exchange.state = state
                try:
                    request = inbound.for_backend(
                        state.backend, self.exchange.body, resolution.status
                    )
                    client = clients.get(self.pool, state.backend)
                    if self.pool.retry.attempt_timeout is None:
                        return await self.exchange.forward(client, request, self)
                    return await self._forward_in_time(client, request)
                except UpstreamError as exc:
                    if not self._goes_on(exc, state):
                        if self.has_asked_all:
                            raise _verdict(exc, NoBackendAvailable(NOBODY_LEFT)) from exc
                        raise
                    logger.info("%r: %s; trying again", inbound, exc)
                    self._tell_of_retry(exc, state)
                    _forget_frames(exc)
                    failure = exc

    def _tell_of_retry(self, exc: UpstreamError, state: BackendState) -> None:
        hooks = self.gateway.listeners.of_events
        if hooks:
            event = RequestRetried(
                pool=self.pool.name,
                backend=state.id,
                method=self.scope["method"],
                path=self.path,
                attempt=self.attempts,
                error=exc,
            )
            tell(hooks, event)

    def _tell_of_wait(self, seconds: float, error: BaseException | None) -> None:
        hooks = self.gateway.listeners.of_events
        if hooks:
            event = RequestQueued(
                pool=self.pool.name,
                method=self.scope["method"],
                path=self.path,
                waited=seconds,
                error=error,
            )
            tell(hooks, event)

    async def _forward_in_time(self, client: UpstreamClient, request: UpstreamRequest) -> None:
        """As the exchange does, but a try that can be repeated has less time."""
        retry = self.pool.retry
        is_short = retry.may_time_out(
            method=self.scope["method"],
            attempt=self.attempts,
            replayable=self.exchange.is_replayable,
        )
        seconds = retry.attempt_timeout if is_short else None
        try:
            async with asyncio.timeout(seconds) as self.patience:
                await self.exchange.forward(client, request, self)
        except TimeoutError:
            raise ResponseTimeout(f"no answer within the {seconds:g} seconds of a try") from None

    def _may_ask_again(self, failure: UpstreamError, resolution: Resolution) -> bool:
        """Whether those who have failed are to get the request once more, for want of others."""
        if not self.tried or not self.pool.retry.allows_same_backend(failure):
            return False
        if resolution.status is AffinityStatus.MOVED and resolution.backend_id in self.tried:
            resolution.status = AffinityStatus.KEPT
        self.tried = ()
        self.has_asked_all = True
        return True

    def _goes_on(self, exc: UpstreamError, state: BackendState) -> bool:
        """Whether there is to be another attempt after one that has failed."""
        self.tried = {*self.tried, state.id}
        if exc.side == "backend":
            self.pool.observe_failure(state, exc)
        latest = self.pool.retry.total_timeout
        if latest is not None and time.perf_counter() - self.began >= latest:
            return False
        return self._allows(exc, attempt=self.attempts) and self._claims_repeat()

    def _allows(self, exc: UpstreamError, *, attempt: int) -> bool:
        return self.pool.retry.allows(
            exc,
            method=self.scope["method"],
            attempt=attempt,
            replayable=self.exchange.is_replayable,
            response_started=self.exchange.response_started,
        )

    def _claims_repeat(self) -> bool:
        """Whether the pool's budget has room; claimed once and held until a backend answers."""
        self.is_repeating = self.is_repeating or self.pool.retry_budget.start(self.pool.in_flight)
        return self.is_repeating

    def _end_repeat(self) -> None:
        if self.is_repeating:
            self.is_repeating = False
            self.pool.retry_budget.finish()

    def _pick(self, request: RequestInfo, resolution: Resolution) -> Lease:
        pool = self.pool
        return pool.lease(pool.pick(request, resolution=resolution, exclude=self.tried))

    async def _wait_for_turn(
        self, request: RequestInfo, resolution: Resolution, failure: UpstreamError | None
    ) -> Lease:
        """A backend that is busy now; for a visitor whose own stays busy, another one."""
        try:
            try:
                return await self._wait_and_tell(request, resolution)
            except (QueueFull, QueueTimeout):
                if resolution.status is not AffinityStatus.KEPT:
                    raise
                resolution.status = AffinityStatus.MOVED
                with suppress(BackendsBusy):
                    return self._pick(request, resolution)
                raise
        except NoBackendAvailable as exc:
            raise _verdict(failure, exc) from failure

    async def _wait_and_tell(self, request: RequestInfo, resolution: Resolution) -> Lease:
        began = time.perf_counter()
        error: BaseException | None = None
        try:
            return await self._wait_in_queue(request, resolution)
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._tell_of_wait(time.perf_counter() - began, error)
            error = None

    async def _wait_in_queue(self, request: RequestInfo, resolution: Resolution) -> Lease:
        pool, loop = self.pool, asyncio.get_running_loop()
        served = asyncio.Event()
        waiter = pool.enqueue(
            request,
            # Whoever makes room may run in another thread's loop.
            lambda: loop.call_soon_threadsafe(served.set),
            resolution=resolution,
            exclude=self.tried,
        )
        try:
            async with asyncio.timeout(pool.limits.queue_timeout):
                await served.wait()
        except TimeoutError:
            pool.forget(waiter)
            raise QueueTimeout(f"no backend of pool {pool.name!r} became free in time") from None
        except BaseException:
            pool.forget(waiter)
            raise
        return waiter.outcome()

    def may_reopen(self, error: StaleConnection) -> bool:
        """Whether a request that met a stale connection may be sent on a new one."""
        # It is no retry in the sense of `Retry.attempts`.
        return self._allows(error, attempt=0)

    def answered(self, response: UpstreamResponse | UpstreamWebSocket) -> Sequence[RawHeader]:
        """A backend has answered: take note, and say to the visitor which one it was."""
        pool, state, resolution = self.pool, self.state, self.resolution
        assert state is not None, "who answers has been asked"
        assert resolution is not None
        status = response.status
        now = time.perf_counter()
        self.first_byte = now - self.began
        state.observe_latency(now - self.attempt_began)
        if self.patience is not None:
            self.patience.reschedule(None)
        if state.faults or status in pool.noted_statuses:
            pool.observe_answer(state, status)
            if status in pool.retry.on_status and self._turns_down(status, state, resolution):
                raise UnwantedStatus(status)
        if pool.drain_header:
            pool.observe_headers(state, response.headers)
        self._end_repeat()
        issued = pool.issue(resolution, state.backend)
        if (
            issued
            and pool.makes_private
            and is_cacheable(self.scope["method"], status, response.headers)
        ):
            return [(b"cache-control", b"private"), *issued]
        return issued

    def _turns_down(self, status: int, state: BackendState, resolution: Resolution) -> bool:
        """Whether another backend is to be asked instead of passing this answer on."""
        return (
            self.pool.retry.allows_status(
                status,
                method=self.scope["method"],
                attempt=self.attempts,
                replayable=self.exchange.is_replayable,
                response_started=False,
            )
            and self.pool.has_another(resolution, {*self.tried, state.id})
            and self._claims_repeat()
        )

    def finished(self, error: GatewayError | None) -> RequestFinished:
        """The event that tells how it went."""
        status = self.exchange.status
        if status is None:
            # Without an error it was a bug, or the server's shutdown: the server answers 500.
            status = 500 if error is None else error.status_code
        client = self.scope.get("client")
        return RequestFinished(
            method=self.scope["method"],
            path=self.path,
            client=self.inbound.client if self.inbound else client[0] if client else None,
            pool=self.pool.name,
            backend=None if self.state is None else self.state.id,
            affinity=None if self.resolution is None else self.resolution.status,
            attempts=self.attempts,
            status=status,
            error=error,
            duration=time.perf_counter() - self.began,
            time_to_first_byte=self.first_byte,
            close_code=self.exchange.close_code,
        )


def _verdict(failure: UpstreamError | None, exc: NoBackendAvailable) -> GatewayError:
    """What a client is told when nobody is left to try."""
    if failure is None or (
        isinstance(failure, ConnectError) and not isinstance(failure, ConnectTimeout)
    ):
        return exc
    return failure
