"""Follows the sources of pools, and puts in force what they say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress

from ..closing import Closing
from ..events import DiscoveryFailed, DiscoveryRecovered
from ..pool import Pool
from ..snapshot import Discovery, Snapshot
from .follower import Follower


class Watcher:
    """Follows the source of one pool from the event loop that runs, until it is closed.

    Args:
        pool: The pool. Its source may change at any time.
        rng: Returns random numbers from 0 to 1.
    """

    def __init__(self, pool: Pool, rng: Callable[[], float] = random.random) -> None:
        self.pool = pool
        self._loop = asyncio.get_running_loop()
        self._source: Discovery | None = None
        self._has_ended = False
        self._follower: Follower[Snapshot] = Follower(
            f"pool {pool.name}",
            lambda: pool.watch_status,
            lambda: pool.watch,
            self._apply,
            on_failure=self._say_failure,
            on_recovery=lambda failures: pool.tell(
                DiscoveryRecovered(pool=pool.name, failures=failures)
            ),
            rng=rng,
        )
        pool.followers.add(self._look)
        self._follow_source()

    def _look(self) -> None:
        # The pool may be changed in another thread's loop, and this one may just have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._follow_source)

    def _follow_source(self) -> None:
        """Begin with the pool's present source, if it is another one than before."""
        source = self.pool.discovery
        if source is self._source or self._has_ended:
            return
        self._source = source
        if source is None:
            self._follower.end()
        else:
            self._follower.begin(source.watch)

    def _apply(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Snapshot):
            raise ValueError(f"a source of backends must yield Snapshots, got {snapshot!r}")
        # Another thread may have given the pool another source just now.
        if self.pool.discovery is self._source:
            self.pool.follow(snapshot)

    def _say_failure(self, reason: str, pause: float) -> None:
        pool = self.pool
        failures = pool.watch_status.failures
        pool.tell(DiscoveryFailed(pool=pool.name, reason=reason, failures=failures, pause=pause))

    async def wait_for_start(self) -> None:
        """Wait for the first snapshot, as far as the pool wants that. Raises DiscoveryError."""
        if self.pool.discovery is not None:
            await self._follower.wait_for_start(self.pool.discovery)

    def end(self) -> None:
        """Follow nobody any more. What is known stays in force."""
        self._has_ended = True
        self.pool.followers.discard(self._look)
        self._follower.end()

    async def aclose(self) -> None:
        """Follow nobody any more, and see the source end."""
        self.end()
        await self._follower.aclose()

    def __repr__(self) -> str:
        return f"<Watcher of {self.pool.name}: {self._source!r}>"


class Watchers:
    """The watchers of one gateway in one event loop: one for each of its pools."""

    def __init__(self) -> None:
        self._watchers: dict[Pool, Watcher] = {}
        self._closing = Closing()

    def follow(self, pools: Iterable[Pool]) -> None:
        """Follow the sources of these pools, and of no others."""
        wanted = dict.fromkeys(pools)
        for pool in wanted:
            if pool not in self._watchers:
                self._watchers[pool] = Watcher(pool)
        for pool in [pool for pool in self._watchers if pool not in wanted]:
            watcher = self._watchers.pop(pool)
            watcher.end()
            self._closing.begin(watcher.aclose())

    async def wait_for_start(self) -> None:
        """Wait for first snapshots, as far as the pools want that.

        Raises:
            DiscoveryError: One did not come in time.
        """
        waits = [watcher.wait_for_start() for watcher in self._watchers.values()]
        results = await asyncio.gather(*waits, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def aclose(self) -> None:
        """Follow nobody any more."""
        self.follow(())
        await self._closing.wait()

    def __repr__(self) -> str:
        return f"<Watchers of {len(self._watchers)} pools>"
