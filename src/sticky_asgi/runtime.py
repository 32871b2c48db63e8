"""What a gateway holds in each event loop: upstream clients, a watch over the clients that wait,
health checks, sources of backends, and in-process backends' lifespans.

Nothing is made before an event loop runs, so a gateway can be built at import, survive a fork, and
serve several loops.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from weakref import WeakKeyDictionary

from .backend import BackendState, Intent
from .discovery.pools import PoolFollower
from .discovery.watcher import Watchers
from .exceptions import DrainEnded
from .exchange import ClientWatch
from .lifespan import run_lifespan
from .pool import Pool
from .probes import Probers
from .upstream import Clients

logger = logging.getLogger("sticky_asgi")


class Runtimes:
    """The resources of one gateway, by event loop.

    Args:
        pools: Tells the gateway's present pools.
        make_pool_follower: Makes what follows the gateway's source of pools. Default None: it has
            none.
    """

    def __init__(
        self,
        pools: Callable[[], tuple[Pool, ...]],
        make_pool_follower: Callable[[], PoolFollower] | None = None,
    ) -> None:
        self._pools = pools
        self._make_pool_follower = make_pool_follower
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Runtime] = WeakKeyDictionary()
        #: Nobody may add to it while another thread looks at all of it.
        self._lock = threading.Lock()
        self._has_warned = False

    def get(self, loop: asyncio.AbstractEventLoop) -> Runtime | None:
        """The resources of the running loop, or None if nobody has started them."""
        return self._by_loop.get(loop)

    async def start(self, loop: asyncio.AbstractEventLoop) -> Runtime:
        """The resources of the running loop, started by its first request."""
        runtime = self._add(loop, Runtime(Clients()))
        self.expect_ends_of_drains()
        await self._close_with_loop(loop, runtime)
        return runtime

    def _add(self, loop: asyncio.AbstractEventLoop, runtime: Runtime) -> Runtime:
        with self._lock:
            self._by_loop[loop] = runtime
        return runtime

    def _all(self) -> list[tuple[asyncio.AbstractEventLoop, Runtime]]:
        with self._lock:
            return list(self._by_loop.items())

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, runtime: Runtime) -> None:
        # An event loop closes the asynchronous generators that are suspended in it when it ends
        # (`loop.shutdown_asyncgens`), which is the only farewell a loop says without lifespan.
        runtime.guard = self._guard(loop, runtime)
        await anext(runtime.guard)
        self._warn()

    def miss_lifespan(self) -> None:
        """Somebody misses what only a lifespan starts: say so if there was none."""
        if not any(runtime.is_managed for _, runtime in self._all()):
            self._warn()

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the gateway was not started by a lifespan: it starts with its first request, "
                "makes no health checks, follows no discovery, and in-process backends get no "
                "lifespan"
            )

    async def _guard(
        self, loop: asyncio.AbstractEventLoop, runtime: Runtime
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            # The generator refers to its loop, and would keep it for as long as it is held.
            self._forget(loop, runtime)
            await runtime.clients.aclose()

    def _forget(self, loop: asyncio.AbstractEventLoop, runtime: Runtime) -> None:
        runtime.forget_drains()
        with self._lock:
            if self._by_loop.get(loop) is runtime:
                del self._by_loop[loop]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the running loop's resources open. May be entered more than once."""
        loop = asyncio.get_running_loop()
        runtime = self._by_loop.get(loop)
        if runtime is not None and runtime.is_managed:
            yield
            return
        async with AsyncExitStack() as stack:
            apps = {
                id(backend.app): backend.app
                for pool in self._pools()
                for backend in pool.backends
                if backend.app is not None
            }
            states = {
                key: await stack.enter_async_context(run_lifespan(app)) for key, app in apps.items()
            }
            previous = self._by_loop.get(loop)
            # In force before anything is awaited: a request in between must find it.
            runtime = self._add(loop, Runtime(Clients(states), is_managed=True))
            stack.push_async_callback(runtime.clients.aclose)
            runtime.probers = Probers(runtime.clients)
            stack.push_async_callback(runtime.probers.aclose)
            runtime.watchers = Watchers()
            stack.push_async_callback(runtime.watchers.aclose)
            if self._make_pool_follower is not None:
                runtime.pool_follower = self._make_pool_follower()
                stack.push_async_callback(runtime.pool_follower.aclose)
            self.expect_ends_of_drains()
            try:
                if previous is not None and previous.guard is not None:
                    await previous.guard.aclose()
                if runtime.pool_follower is not None:
                    runtime.pool_follower.look()
                    await runtime.pool_follower.wait_for_start()
                runtime.watchers.follow(self._pools())
                await runtime.watchers.wait_for_start()
                self._prepare()
                runtime.probers.follow(self._pools())
                yield
            finally:
                self._forget(loop, runtime)

    def _prepare(self) -> None:
        """Do what the first visitors would wait for."""
        # Apart from `running`, which lives long: a variable of its own would keep the last pool.
        for pool in self._pools():
            pool.prepare()

    def expect_end_of_drain(self, pool: Pool, backend_id: str) -> None:
        """Have each loop act when the drain of a backend is over. Any thread may call this."""
        if backend_id not in pool:
            return
        state = pool[backend_id]
        if state.drain_until is None or state.wished is not Intent.DRAINING:
            return
        for loop, runtime in self._all():
            # One that has ended serves nobody any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(runtime.expect_end_of_drain, pool, state)

    def expect_ends_of_drains(self) -> None:
        """Of those that have begun before there was a loop."""
        for pool in self._pools():
            for state in pool.states:
                self.expect_end_of_drain(pool, state.id)

    def follow_routes(self) -> None:
        """After a change of routes: have each loop close what none of them leads to any more, and
        check the pools that some lead to now. Any thread may call this.
        """
        for loop, _ in self._all():
            # One that has ended holds nothing any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._follow_routes, loop)

    def _follow_routes(self, loop: asyncio.AbstractEventLoop) -> None:
        runtime = self._by_loop.get(loop)
        # It may have been closed meanwhile.
        if runtime is not None:
            runtime.follow(self._pools())


class Runtime:
    """What a gateway holds in one event loop."""

    def __init__(self, clients: Clients, *, is_managed: bool = False) -> None:
        self.clients = clients
        self.watch = ClientWatch()
        self.is_managed = is_managed
        #: None where no lifespan holds them.
        self.probers: Probers | None = None
        self.watchers: Watchers | None = None
        self.pool_follower: PoolFollower | None = None
        self.guard: AsyncGenerator[None, None] | None = None
        self._drains: dict[BackendState, asyncio.TimerHandle] = {}

    def follow(self, pools: tuple[Pool, ...]) -> None:
        """Hold clients for these pools, check their backends and follow their sources; for no
        others.
        """
        self.clients.keep_only(pools)
        if self.probers is not None:
            self.probers.follow(pools)
        if self.watchers is not None:
            self.watchers.follow(pools)
        if self.pool_follower is not None:
            self.pool_follower.look()

    def expect_end_of_drain(self, pool: Pool, state: BackendState) -> None:
        """End a backend's drain at its deadline, unless it is taken back or put off till then."""
        until = state.drain_until
        self._forget_drain(state)
        if until is not None:
            self._drains[state] = asyncio.get_running_loop().call_later(
                max(0, until - pool.clock()), self._end_drain, pool, state, until
            )

    def _end_drain(self, pool: Pool, state: BackendState, until: float) -> None:
        self._forget_drain(state)
        if state.drain_until != until:
            return
        pool.end_drain(state)
        left = self.watch.on(state)
        logger.info("%r: the drain of backend %s has ended, %s left", pool, state.id, len(left))
        for exchange in left:
            exchange.end(DrainEnded(f"the drain of backend {state.id} has ended"))

    def _forget_drain(self, state: BackendState) -> None:
        timer = self._drains.pop(state, None)
        if timer is not None:
            timer.cancel()

    def forget_drains(self) -> None:
        """The loop serves no more: no deadline concerns it."""
        for state in tuple(self._drains):
            self._forget_drain(state)
