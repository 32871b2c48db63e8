"""One request on its way through the gateway: the one retry loop, and what may be repeated.

Whatever fails on the way comes back here, and only here is decided whether there is another
attempt. Which backend comes next is the pool's affair.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Collection
from contextlib import suppress
from typing import NoReturn, TypeVar

from starlette.types import Scope

from .affinity import AffinityStatus, Resolution
from .backend import BackendState
from .events import Listeners, RequestFinished, RequestQueued, RequestRetried, tell
from .exceptions import (
    BackendsBusy,
    ConnectError,
    ConnectTimeout,
    GatewayError,
    NoBackendAvailable,
    QueueFull,
    QueueTimeout,
    ResponseTimeout,
    StaleConnection,
    UnwantedStatus,
    UpstreamError,
)
from .exchange import Exchange
from .headers import is_cacheable
from .inbound import HeadReader, InboundRequest
from .lease import Lease
from .pool import Pool
from .request import RawHeaders, RequestInfo
from .routes import Route
from .target import raw_path_of
from .tracebacks import forget_frames
from .upstream import (
    Clients,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamWebSocket,
)
from .waits import wait_for_backend, wait_for_repeat

logger = logging.getLogger("sticky_asgi")

T = TypeVar("T")

_NOBODY_LEFT = "every backend was tried, and failed"


class Call:
    """One request, or WebSocket: how far it has come, and what it has met.

    Args:
        pool: Whose backends are asked.
        scope: The client's.
        exchange: Carries it.
        reader: Reads its header section.
        listeners: Told of retries and waits.
    """

    __slots__ = (
        "attempt_began",
        "attempts",
        "began",
        "blamed",
        "exchange",
        "first_byte",
        "has_asked_all",
        "inbound",
        "is_repeating",
        "listeners",
        "patience",
        "pool",
        "reader",
        "refused",
        "resolution",
        "scope",
        "state",
        "tried",
    )

    def __init__(
        self,
        pool: Pool,
        scope: Scope,
        exchange: Exchange,
        reader: HeadReader,
        listeners: Listeners,
    ) -> None:
        self.pool = pool
        self.scope = scope
        self.exchange = exchange
        self.reader = reader
        self.listeners = listeners
        self.began = self.attempt_began = time.perf_counter()
        self.first_byte: float | None = None
        self.attempts = 0
        self.tried: Collection[str] = ()
        self.refused: Collection[str] = ()
        self.state: BackendState | None = None
        #: Whose answer counts as failed, for its status.
        self.blamed: BackendState | None = None
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
        self.inbound = inbound = InboundRequest(self.scope, route, self.reader)
        if inbound.may_have_body:
            exchange.body = await inbound.open_body(exchange.receive)
        self.resolution = resolution = pool.visitors.resolve(inbound)
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
            if failure is not None and not self.is_repeating:
                await self._and_tell(self._wait_for_repeat(failure))
            try:
                lease = self._pick(inbound, resolution)
            except BackendsBusy:
                turn = await self._wait_for_turn(inbound, resolution, failure)
                if turn is None:
                    continue
                lease = turn
            except NoBackendAvailable as exc:
                await self._ask_again(resolution, failure, exc)
                continue
            with lease as state:
                if failure is not None and self._is_too_late():
                    raise failure
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
                            _give_up(exc, NoBackendAvailable(_NOBODY_LEFT))
                        raise
                    logger.info("%r: %s; trying again", inbound, exc)
                    self._tell_of_retry(exc, state)
                    forget_frames(exc)
                    failure = exc

    def _tell_of_retry(self, exc: UpstreamError, state: BackendState) -> None:
        hooks = self.listeners.of_events
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
        hooks = self.listeners.of_events
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
        retry, body = self.pool.retry, self.exchange.body
        is_short = retry.may_time_out(
            method=self.scope["method"],
            attempt=self.attempts,
            # For a client that is still sending, no backend is to blame.
            replayable=self.exchange.is_replayable and (body is None or body.is_over),
        )
        seconds = retry.attempt_timeout if is_short else None
        try:
            async with asyncio.timeout(seconds) as self.patience:
                await self.exchange.forward(client, request, self)
        except TimeoutError:
            if self.patience is None or not self.patience.expired():
                raise  # It is not ours.
            raise ResponseTimeout(f"no answer within the {seconds:g} seconds of a try") from None

    async def _ask_again(
        self, resolution: Resolution, failure: UpstreamError | None, exc: NoBackendAvailable
    ) -> None:
        """Those who have refused may be picked again, after a pause. Raises if there are none."""
        if not self._may_ask_again(resolution):
            _give_up(failure, exc)
        await asyncio.sleep(min(self.pool.retry.pause(self.attempts), self._time_left()))

    def _may_ask_again(self, resolution: Resolution) -> bool:
        """Whether those who have refused are to get the request once more, for want of others."""
        if not self.refused:
            return False
        if resolution.status is AffinityStatus.MOVED and resolution.backend_id in self.refused:
            resolution.status = AffinityStatus.KEPT
        self.tried = {key for key in self.tried if key not in self.refused}
        self.refused = ()
        self.has_asked_all = True
        return True

    def _goes_on(self, exc: UpstreamError, state: BackendState) -> bool:
        """Whether there is to be another attempt after one that has failed."""
        self.tried = {*self.tried, state.id}
        if exc.side == "backend":
            took = time.perf_counter() - self.attempt_began
            self.pool.observe_failure(state, exc, took=took, is_counted=self.blamed is state)
        if self.pool.retry.allows_same_backend(exc):
            self.refused = {*self.refused, state.id}
        return (
            not self._is_too_late()
            and self._allows(exc, attempt=self.attempts)
            and (self._claims_repeat() or self.pool.retry_budget.can_wait(self.pool.limits.queue))
        )

    def _is_too_late(self) -> bool:
        return self._time_left() <= 0

    def _time_left(self) -> float:
        """Seconds in which the request may still be repeated."""
        latest = self.pool.retry.total_timeout
        return math.inf if latest is None else self.began + latest - time.perf_counter()

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
            self.pool.retry_budget.finish(self.pool.in_flight)

    def _pick(self, request: RequestInfo, resolution: Resolution) -> Lease:
        pool = self.pool
        return pool.lease(pool.pick(request, resolution=resolution, exclude=self.tried))

    async def _wait_for_turn(
        self, request: RequestInfo, resolution: Resolution, failure: UpstreamError | None
    ) -> Lease | None:
        """A backend that is busy now; for a visitor whose own stays busy, another one.

        Returns None when they have gone meanwhile, and those who have refused are to be asked.
        """
        try:
            try:
                return await self._and_tell(self._wait_for_backend(request, resolution, failure))
            except (QueueFull, QueueTimeout):
                if resolution.status is not AffinityStatus.KEPT:
                    raise
                resolution.status = AffinityStatus.MOVED
                with suppress(BackendsBusy):
                    return self._pick(request, resolution)
                raise
        except (QueueFull, QueueTimeout) as exc:
            _give_up(failure, exc)
        except NoBackendAvailable as exc:
            await self._ask_again(resolution, failure, exc)
            return None

    async def _wait_for_backend(
        self, request: RequestInfo, resolution: Resolution, failure: UpstreamError | None
    ) -> Lease:
        """Raises the failure if nobody is free for as long as the request may be repeated."""
        pool, patience = self.pool, self.pool.limits.queue_timeout
        time_left = math.inf if failure is None else self._time_left()
        lease = await wait_for_backend(
            pool, request, resolution, self.tried, min(patience, time_left)
        )
        if lease is not None:
            return lease
        if failure is not None and time_left < patience:
            raise failure
        raise QueueTimeout(f"no backend of pool {pool.name!r} became free in time")

    async def _wait_for_repeat(self, failure: UpstreamError) -> None:
        """Wait until the budget has room. Raises the failure if that takes too long."""
        patience = min(self.pool.limits.queue_timeout, self._time_left())
        self.is_repeating = await wait_for_repeat(self.pool, patience)
        if not self.is_repeating:
            raise failure

    async def _and_tell(self, wait: Awaitable[T]) -> T:
        """Wait, and tell how it went."""
        began = time.perf_counter()
        error: BaseException | None = None
        try:
            return await wait
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._tell_of_wait(time.perf_counter() - began, error)
            error = None

    def may_reopen(self, error: StaleConnection) -> bool:
        """Whether a request that met a stale connection may be sent on a new one."""
        # It is no retry in the sense of `Retry.attempts`.
        return self._allows(error, attempt=0)

    def answered(self, response: UpstreamResponse | UpstreamWebSocket) -> RawHeaders:
        """A backend has answered: take note, and say to the visitor which one it was."""
        pool, state, resolution = self.pool, self.state, self.resolution
        assert state is not None, "who answers has been asked"
        assert resolution is not None
        status, headers = response.status, response.headers
        now = time.perf_counter()
        self.first_byte = now - self.began
        state.observe_latency(now - self.attempt_began)
        if self.patience is not None:
            self.patience.reschedule(None)
        if pool.drain_header:
            headers = pool.observe_headers(state, headers)
        if state.faults or status in pool.noted_statuses:
            if pool.observe_answer(state, status, took=now - self.attempt_began):
                self.blamed = state
            if status in pool.retry.on_status and self._turns_down(status, state, resolution):
                raise UnwantedStatus(status)
        self._end_repeat()
        issued = pool.visitors.issue(resolution, state.backend)
        if (
            issued
            and pool.visitors.makes_private
            and is_cacheable(self.scope["method"], status, headers)
        ):
            return [*headers, (b"cache-control", b"private"), *issued]
        return [*headers, *issued]

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
            and not self._is_too_late()
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


def _give_up(failure: UpstreamError | None, exc: NoBackendAvailable) -> NoReturn:
    """Raises what a client is told when nobody is left to try."""
    if failure is None:
        raise exc
    if isinstance(failure, ConnectError) and not isinstance(failure, ConnectTimeout):
        raise exc from failure
    raise failure from failure.__cause__
