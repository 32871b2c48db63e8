"""Active checks: who makes them, and when. What they mean is decided in `health/`.

One `Prober` serves one pool in one event loop. It sleeps until a check is due, and then makes all
that are: ten thousand backends do not wake it ten thousand times. Where several loops check a pool,
each check is made by one of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .backend import Backend, BackendState
from .closing import Closing
from .exceptions import UpstreamError
from .health import CheckResult, HealthCheck
from .pool import Pool
from .request import RawHeaders
from .tracebacks import forget_frames
from .upstream import Clients, UpstreamClient, UpstreamRequest, UpstreamResponse
from .user_checks import GRACE, UserChecks

logger = logging.getLogger("sticky_asgi")

#: Checks of one pool that may be under way at one time.
CONCURRENCY = 256

#: Seconds that a prober sleeps at least: checks that are due meanwhile are made together.
PAUSE = 0.02

#: Bytes of a body that are read.
BODY_SIZE = 65536


class Prober:
    """Checks the backends of one pool from the event loop that runs, until it is closed.

    Args:
        pool: The pool. Its backends and the way to check them may change at any time.
        clients: Where the clients for the backends are.
    """

    def __init__(self, pool: Pool, clients: Clients) -> None:
        self.pool = pool
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._user_checks = UserChecks()
        #: The last exceptions of somebody else's code, by backend.
        self._raised: dict[str, str] = {}
        self._check: HealthCheck | None = None
        self._version = -1
        self._sleeps_until = math.inf
        pool.followers.add(self._wake_up)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(_report)

    def _wake_up(self) -> None:
        # The pool may be changed in another thread's loop, and this one may just have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self._follow()
            delay = self._start_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    def _follow(self) -> None:
        """Take in what has changed in the pool."""
        pool, before = self.pool, self._check
        check = pool.health_check
        if check is before and pool.version == self._version:
            return
        self._check, self._version = check, pool.version
        if check is not None:
            pool.schedule.follow(pool.states, check, pool.clock())
        if check is not None and before is None:
            pool.begin_checks()
        elif check is None and before is not None:
            pool.end_checks()

    def _start_due(self) -> float | None:
        """Begin the checks that are due. Returns for how long to sleep; None: until woken."""
        check, schedule = self._check, self.pool.schedule
        room = CONCURRENCY - len(self._running)
        self._sleeps_until = math.inf
        if check is None or room <= 0:
            return None  # The next check that ends wakes.
        now = self.pool.clock()
        for state in schedule.take(now, room, check):
            task = self._loop.create_task(self._make(state, check))
            self._running.add(task)
            task.add_done_callback(self._ended)
        due = schedule.next_due
        if due is None:
            return None
        self._sleeps_until = max(due, now + PAUSE)
        return self._sleeps_until - now

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        due = self.pool.schedule.next_due
        if due is not None and due < self._sleeps_until:
            self._wake.set()
        _report(task)

    async def _make(self, state: BackendState, check: HealthCheck) -> None:
        backend, began = state.backend, self.pool.clock()
        try:
            result = await self._result(backend, check)
            # Another address under the same id is another matter.
            if (
                result is not None
                and state.backend.reaches_same_place(backend)
                and self.pool.health_check == check
            ):
                self.pool.observe_check(state, result)
        finally:
            self.pool.schedule.done(state, began, check)

    async def _result(self, backend: Backend, check: HealthCheck) -> CheckResult | None:
        """What a check comes to; None if it could not be made, and no backend is to blame."""
        timeout = asyncio.timeout(check.timeout)
        try:
            if check.check is not None:
                result = await self._user_checks.make(backend, check)
                self._raised.pop(backend.id, None)
                return result
            async with timeout:
                client = self._clients.get(self.pool, backend)
                if check.tcp:
                    await client.reach()
                    return CheckResult(True, "connected", drains=None)
                return await ask(client, check, self._request(backend, check))
        except UpstreamError as exc:
            forget_frames(exc)
            return CheckResult(False, str(exc)) if exc.side == "backend" else None
        except Exception as exc:
            if timeout.expired():
                return CheckResult(False, f"not within {check.timeout:g} seconds")
            self._log_once(backend, exc)
            return CheckResult(False, f"raised {type(exc).__name__}")

    def _log_once(self, backend: Backend, exc: BaseException) -> None:
        """Say what is wrong with somebody's code, but not again with every check."""
        said = repr(exc)
        if self._raised.get(backend.id) == said:
            return
        self._raised = {key: text for key, text in self._raised.items() if key in self.pool}
        self._raised[backend.id] = said
        logger.error("the health check of backend %s raised", backend.id, exc_info=exc)

    def _request(self, backend: Backend, check: HealthCheck) -> UpstreamRequest:
        host = backend.authority if check.host is None else check.host
        headers: RawHeaders = [(b"host", host.encode("ascii"))]
        if self.pool.transport is None and backend.app is None:
            # Nobody waits for the next check: thousands of connections would be idle till then.
            headers.append((b"connection", b"close"))
        headers += [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in check.fields
        ]
        return UpstreamRequest(check.method, check.path.encode("ascii"), headers)

    async def aclose(self) -> None:
        """Make no more checks; those under way are broken off. That takes a second at most."""
        self.pool.followers.discard(self._wake_up)
        tasks: set[asyncio.Task[Any]] = {self._task, *self._running, *self._user_checks.tasks}
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=GRACE)
        if left:
            names = sorted(task.get_name() for task in left)
            logger.warning("%r: %d tasks go on though they were cancelled, such as %s",
                           self, len(names), names[0])  # fmt: skip
        if self._check is not None:
            self._check = None
            self.pool.end_checks()

    def __repr__(self) -> str:
        return f"<Prober of {self.pool.name} [{len(self._running)} under way]>"


def _report(task: asyncio.Task[None]) -> None:
    """A bug must not end checks in silence."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.error("a health check failed by a fault of the gateway's own", exc_info=exc)


async def ask(client: UpstreamClient, check: HealthCheck, request: UpstreamRequest) -> CheckResult:
    """Make a check that is a request. Raises UpstreamError if no whole response comes."""
    # On a connection of its own: that new ones are accepted is part of the question.
    response = await client.send(request, fresh=True)
    try:
        body = await _beginning(response)
    finally:
        await response.aclose()
    return check.judge(response.status, response.headers, body)


async def _beginning(response: UpstreamResponse) -> bytes:
    body = b""
    while len(body) < BODY_SIZE and not response.at_end:
        piece = await response.read()
        if not piece:
            break
        body += piece
    return body[:BODY_SIZE]


class Probers:
    """The probers of one gateway in one event loop: one for each of its pools.

    Args:
        clients: Where the clients for the backends are.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._probers: dict[Pool, Prober] = {}
        self._closing = Closing()

    def follow(self, pools: Iterable[Pool]) -> None:
        """Check the backends of these pools, and of no others."""
        wanted = dict.fromkeys(pools)
        for pool in wanted:
            if pool not in self._probers:
                self._probers[pool] = Prober(pool, self._clients)
        for pool in [pool for pool in self._probers if pool not in wanted]:
            self._closing.begin(self._probers.pop(pool).aclose())

    async def aclose(self) -> None:
        """Make no more checks."""
        self.follow(())
        await self._closing.wait()

    def __repr__(self) -> str:
        return f"<Probers of {len(self._probers)} pools>"
