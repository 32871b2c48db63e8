"""Pools that a gateway finds by itself, with the routes to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

from ..checks import check_object, check_type
from ..closing import Closing
from ..events import DiscoveryFailed, DiscoveryRecovered, Event
from ..pool import Pool
from ..routes import Route
from ..snapshot import Discovery, Snapshot, WatchOptions, WatchStatus
from ..upstream import check_transport
from .follower import Follower
from .found import DiscoveredPool

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


class _Kept(NamedTuple):
    """A pool that was found."""

    pool: Pool
    share: _Share
    #: Whose Host header its backends get where the source says nothing of it.
    host: Literal["pass", "backend"]


class PoolDiscovery:
    """Pools that a gateway finds by itself: they appear and vanish, and their routes with them.

    A pool that vanishes gets no new requests; those under way are finished. Routes of the program
    come before those that are found, and of two found routes that are alike, the one whose pool's
    name sorts first wins; the other is named in the log. One object serves one gateway.

    Args:
        source: Where they come from, such as `KubernetesNamespace("shop")`.
        make_pool: Makes a pool from its name and the source of its backends:
            `Pool(name, discovery=discovery, ...)` with whatever policies it is to have. Called in
            the event loop that follows the source, again for a pool that comes back, and for
            each pool when a configuration is read anew. One that fails is named in the log.
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
        self._pools: dict[str, _Kept] = {}
        self._said: set[str] = set()

    def follow(self, found: Iterable[DiscoveredPool], taken: Iterable[Route]) -> bool:
        """Take in what the source says.

        Args:
            found: The pools there are.
            taken: Routes of the program; their pools' names are taken.

        Returns:
            Whether there are other routes now.

        Raises:
            ValueError: Something else than pools; then nothing has changed.
        """
        self._found = _checked(found)
        self.status.has_snapshot = True
        return self.make_room(taken)

    def make_room(self, taken: Iterable[Route]) -> bool:
        """The program has other routes. Arguments and result are those of `follow`."""
        names, places = set(), set()
        for route in taken:
            places.add(_place(route))
            if route.pool is not None:
                names.add(route.pool.name)
        remarks: dict[str, BaseException | None] = {}
        routes: list[Route] = []
        pools: dict[str, _Kept] = {}
        for item in self._found:
            if item.name in names:
                remarks[f"the pool {item.name!r} that was found has the name of another"] = None
                continue
            names.add(item.name)
            kept = self._take_in(item, remarks)
            if kept is None:
                continue
            pools[item.name] = kept
            for route in _routes_to(item, kept.pool, remarks):
                if _place(route) in places:
                    remarks[f"{route!r} that was found is left out: another has its place"] = None
                else:
                    places.add(_place(route))
                    routes.append(route)
        self._pools = pools
        self._say(remarks)
        if list(map(_identity, self.routes)) == list(map(_identity, routes)):
            return False
        self.routes = tuple(routes)
        return True

    def _say(self, remarks: dict[str, BaseException | None]) -> None:
        """Each remark once, until it is void."""
        for remark in sorted(remarks.keys() - self._said):
            fault = remarks[remark]
            level = logging.WARNING if fault is None else logging.ERROR
            logger.log(level, "discovery: %s", remark, exc_info=fault)
        self._said = set(remarks)

    def _take_in(
        self, item: DiscoveredPool, remarks: dict[str, BaseException | None]
    ) -> _Kept | None:
        kept = self._pools.get(item.name)
        if kept is not None:
            _use_host(kept.pool, item.host or kept.host)
            kept.share.say(item.snapshot)
            return kept
        share = _Share(item.snapshot)
        try:
            pool = self._make(item.name, share)
            host = pool.host
            _use_host(pool, item.host or host)
            # It serves from its first request on. What cannot be is said by whoever follows it.
            with suppress(ValueError):
                pool.follow(item.snapshot)
            pool.prepare()
        except Exception as exc:
            remarks[f"the pool {item.name!r} could not be made"] = exc
            return None
        return _Kept(pool, share, host)

    def _make(self, name: str, share: _Share) -> Pool:
        pool = self.make_pool(name, share)
        check_type("the pool", pool, Pool)
        if pool.name != name or pool.discovery is not share:
            raise ValueError("make_pool must use the name and the discovery that it is given")
        check_transport(pool.transport)
        return pool

    def adopt(self, other: PoolDiscovery) -> None:
        """Take over another one's source and policies, and keep the pools that were found.

        A pool that cannot be made anew keeps its policies. The other must not be used afterwards.
        """
        self.make_pool, self.watch = other.make_pool, other.watch
        if other.source != self.source:
            self.source = other.source
            has_snapshot, self.status = self.status.has_snapshot, WatchStatus()
            # Stale pools are better than none, and no reason to be not ready.
            self.status.has_snapshot = has_snapshot
        for item in self._found:
            kept = self._pools.get(item.name)
            # One that the program has taken over follows something else, or nobody.
            if kept is not None and kept.pool.discovery is kept.share:
                self._pools[item.name] = self._renew(item, kept)

    def _renew(self, item: DiscoveredPool, kept: _Kept) -> _Kept:
        try:
            made = self._make(item.name, kept.share)
            host = made.host
            made.host = item.host or host
            kept.pool.adopt(made)
        except Exception:
            logger.exception("discovery: the pool %s keeps its policies", item.name)
            return kept
        return kept._replace(host=host)

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
        self._present: tuple[PoolDiscovery, PoolSource] | None = None
        self._follower: Follower[Sequence[DiscoveredPool]] | None = None
        self._closing = Closing()

    def look(self) -> None:
        """Follow the present source, and no other."""
        self._turn_to(self._discovery())

    def _turn_to(self, discovery: PoolDiscovery | None) -> None:
        present = None if discovery is None else (discovery, discovery.source)
        if present == self._present:
            return
        self._present = present
        if self._follower is not None:
            self._follower.end()
            self._closing.begin(self._follower.aclose())
            self._follower = None
        if present is not None:
            discovery, source = present
            self._follower = self._follow(discovery, source)
            self._follower.begin(source.watch_pools)

    def _follow(
        self, discovery: PoolDiscovery, source: PoolSource
    ) -> Follower[Sequence[DiscoveredPool]]:
        status = discovery.status

        def put_in_force(found: Sequence[DiscoveredPool]) -> None:
            # Another thread may have given the gateway another source just now.
            if self._discovery() is discovery and discovery.source is source:
                self._apply(found)

        def say_failure(reason: str, pause: float) -> None:
            self._tell(
                DiscoveryFailed(pool="", reason=reason, failures=status.failures, pause=pause)
            )

        return Follower(
            "all pools",
            lambda: status,
            lambda: discovery.watch,
            put_in_force,
            on_failure=say_failure,
            on_recovery=lambda failures: self._tell(DiscoveryRecovered(pool="", failures=failures)),
        )

    async def wait_for_start(self) -> None:
        """Wait for the first word, as far as that is wanted. Raises DiscoveryError."""
        waited = None
        # There may be another source meanwhile, or none any more.
        while self._follower is not None and self._present is not None:
            if waited is self._follower:
                return
            waited = self._follower
            await waited.wait_for_start(self._present[1])

    async def aclose(self) -> None:
        """Follow nobody any more."""
        self._turn_to(None)
        await self._closing.wait()

    def __repr__(self) -> str:
        return f"<PoolFollower of {self._present and self._present[0]!r}>"


def _checked(found: object) -> tuple[DiscoveredPool, ...]:
    """In the order of their names."""
    if not isinstance(found, Iterable):
        raise ValueError(f"a source of pools must yield lists of DiscoveredPool, got {found!r}")
    pools = tuple(found)
    for item in pools:
        if not isinstance(item, DiscoveredPool):
            raise ValueError(f"a source of pools must yield DiscoveredPool objects, got {item!r}")
    return tuple(sorted(pools, key=lambda item: item.name))


def _use_host(pool: Pool, host: Literal["pass", "backend"]) -> None:
    if pool.host != host:
        pool.host = host
        pool.policies_version += 1


def _routes_to(
    item: DiscoveredPool, pool: Pool, remarks: dict[str, BaseException | None]
) -> list[Route]:
    routes = []
    for hint in item.routes:
        try:
            routes.append(
                Route(pool, path=hint.path, host=hint.host, strip_prefix=hint.strip_prefix)
            )
        except ValueError as exc:
            remarks[f"a route to {item.name!r} that was found is left out: {exc}"] = None
    return routes


def _place(route: Route) -> tuple[object, ...]:
    return route.path, route.host, route.methods, route.headers


def _identity(route: Route) -> tuple[object, ...]:
    return route.pool, route.strip_prefix, *_place(route)
