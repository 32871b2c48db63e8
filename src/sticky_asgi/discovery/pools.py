"""Pools that a gateway finds by itself, with the routes to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from ..checks import check_object, check_type
from ..events import DiscoveryFailed, DiscoveryRecovered, Event
from ..pool import Pool
from ..routes import Route
from ..snapshot import Discovery, Snapshot, WatchOptions, WatchStatus
from .follower import Follower

if TYPE_CHECKING:
    from .kubernetes import DiscoveredPool

logger = logging.getLogger("sticky_asgi")


class PoolSource(Protocol):
    """Where pools come from. As `Discovery`, but for what is told."""

    def watch_pools(self) -> AsyncIterator[Sequence[DiscoveredPool]]:
        """Tell what pools there are, now and from now on; every word is the full set."""
        ...


class _Share:
    """The part of a source's word that is about one pool: a source of backends by itself."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def say(self, snapshot: Snapshot) -> None:
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        for loop, event in tuple(self._waiting):
            # One that has ended follows nothing any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    async def watch(self) -> AsyncIterator[Snapshot]:
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        self._waiting.add(waiter)
        try:
            while True:
                event.clear()
                yield self._snapshot
                await event.wait()
        finally:
            self._waiting.discard(waiter)

    def __repr__(self) -> str:
        return f"<a share of {len(self._snapshot.backends)} backends>"


class PoolDiscovery:
    """Pools that a gateway finds by itself: they appear and vanish, and their routes with them.

    A pool that vanishes gets no new requests; those under way are finished. Routes of the program
    come before those that are found, and of two found routes that are alike, the one whose pool's
    name sorts first wins; the other is named in the log.

    Args:
        source: Where they come from, such as `KubernetesNamespace("shop")`.
        make_pool: Makes a pool from its name and the source of its backends:
            `Pool(name, discovery=discovery, ...)` with whatever policies it is to have.
        watch: How the source is followed. Default `WatchOptions()`.

    Raises:
        TypeError: An argument that is not what it should be.

    Example:
        def make_pool(name: str, discovery: Discovery) -> Pool:
            return Pool(name, discovery=discovery, affinity=AnnotatedCookie(SECRET))

        gateway = Gateway([], discovery=PoolDiscovery(KubernetesNamespace("shop"), make_pool))
    """

    def __init__(
        self,
        source: PoolSource,
        make_pool: Callable[[str, Discovery], Pool],
        *,
        watch: WatchOptions = WatchOptions(),
    ) -> None:
        check_object("source", source, "watch_pools")
        if not callable(make_pool):
            raise TypeError(f"make_pool must be callable, got {make_pool!r}")
        check_type("watch", watch, WatchOptions)
        self.source = source
        self.make_pool = make_pool
        self.watch = watch
        self.status = WatchStatus()
        #: The routes to the pools that were found.
        self.routes: tuple[Route, ...] = ()
        self._found: tuple[DiscoveredPool, ...] = ()
        self._pools: dict[str, tuple[Pool, _Share]] = {}
        self._said: set[str] = set()

    def follow(self, found: Iterable[DiscoveredPool], taken: Iterable[Route]) -> bool:
        """Take in what the source says.

        Args:
            found: The pools there are.
            taken: Routes of the program; their pools' names are taken.

        Returns:
            Whether there are other routes now.
        """
        self.status.has_snapshot = True
        self._found = found = tuple(found)
        names = {route.pool.name for route in taken if route.pool is not None}
        places = {_place(route) for route in taken}
        remarks: set[str] = set()
        routes: list[Route] = []
        pools: dict[str, tuple[Pool, _Share]] = {}
        for item in found:
            if item.name in names:
                remarks.add(f"the pool {item.name!r} that was found has the name of another")
                continue
            pool = self._take_in(item)
            if pool is None:
                continue
            pools[item.name] = pool
            for route in self._routes_to(item, pool[0], remarks):
                if _place(route) in places:
                    remarks.add(f"{route!r} that was found is left out: another has its place")
                else:
                    places.add(_place(route))
                    routes.append(route)
        for remark in sorted(remarks - self._said):
            logger.warning("discovery: %s", remark)
        self._pools, self._said = pools, remarks
        before = [_identity(route) for route in self.routes]
        if before == [_identity(route) for route in routes]:
            return False
        self.routes = tuple(routes)
        return True

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that were found."""
        return tuple(pool for pool, _ in self._pools.values())

    def make_room(self, taken: Iterable[Route]) -> None:
        """The program has other routes now: names and places are taken, or free again."""
        if self.status.has_snapshot:
            self.follow(self._found, taken)

    def _take_in(self, item: DiscoveredPool) -> tuple[Pool, _Share] | None:
        known = self._pools.get(item.name)
        if known is not None:
            known[1].say(item.snapshot)
            return known
        share = _Share(item.snapshot)
        try:
            pool = self.make_pool(item.name, share)
            check_type("make_pool's pool", pool, Pool)
            if item.host is not None:
                pool.host = item.host
            # It serves from its first request on.
            pool.follow(item.snapshot)
        except Exception:
            logger.exception("discovery: the pool %s could not be made", item.name)
            return None
        return pool, share

    @staticmethod
    def _routes_to(item: DiscoveredPool, pool: Pool, remarks: set[str]) -> list[Route]:
        routes = []
        for hint in item.routes:
            try:
                routes.append(
                    Route(pool, path=hint.path, host=hint.host, strip_prefix=hint.strip_prefix)
                )
            except ValueError as exc:
                remarks.add(f"a route to {item.name!r} that was found is left out: {exc}")
        return routes

    def adopt(self, other: PoolDiscovery) -> None:
        """Take over another one's source and policies, and keep the pools that were found."""
        self.make_pool, self.watch = other.make_pool, other.watch
        if other.source != self.source:
            self.source = other.source
        for name, (pool, share) in self._pools.items():
            host = pool.host
            pool.adopt(self.make_pool(name, share))
            pool.host = host

    def __repr__(self) -> str:
        return f"<PoolDiscovery {self.source!r} [{len(self._pools)} pools]>"


class PoolFollower:
    """Follows a gateway's source of pools from the event loop that runs.

    Args:
        discovery: Tells the present one.
        apply: Puts what its source says in force.
        tell: Told of what happens.
    """

    def __init__(
        self,
        discovery: Callable[[], PoolDiscovery | None],
        apply: Callable[[Sequence[DiscoveredPool]], object],
        tell: Callable[[Event], object],
    ) -> None:
        self._discovery = discovery
        self._apply = apply
        self._tell = tell
        self._source: PoolSource | None = None
        self._follower: Follower[Sequence[DiscoveredPool]] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """Follow the present source, and no other."""
        self._turn_to(self._discovery())

    def _turn_to(self, discovery: PoolDiscovery | None) -> None:
        source = None if discovery is None else discovery.source
        if source is self._source:
            return
        self._source = source
        if self._follower is not None:
            task = asyncio.get_running_loop().create_task(self._follower.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._follower = None
        if discovery is not None:
            self._follower = self._follow(discovery)
            self._follower.begin(discovery.source.watch_pools)

    def _follow(self, discovery: PoolDiscovery) -> Follower[Sequence[DiscoveredPool]]:
        status = discovery.status

        def say_failure(reason: str, pause: float) -> None:
            self._tell(
                DiscoveryFailed(pool="", reason=reason, failures=status.failures, pause=pause)
            )

        return Follower(
            "all pools",
            lambda: status,
            lambda: discovery.watch,
            self._apply,
            on_failure=say_failure,
            on_recovery=lambda failures: self._tell(DiscoveryRecovered(pool="", failures=failures)),
        )

    async def wait_for_start(self) -> None:
        """Wait for the first word, as far as that is wanted. Raises DiscoveryError."""
        if self._follower is not None:
            await self._follower.wait_for_start(self._source)

    async def aclose(self) -> None:
        """Follow nobody any more."""
        self._turn_to(None)
        if self._closing:
            await asyncio.wait(self._closing)

    def __repr__(self) -> str:
        return f"<PoolFollower of {self._source!r}>"


def _place(route: Route) -> tuple[object, ...]:
    return route.path, route.host, route.methods, route.headers


def _identity(route: Route) -> tuple[object, ...]:
    return route.pool, route.strip_prefix, *_place(route)
