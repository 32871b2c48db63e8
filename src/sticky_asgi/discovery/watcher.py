"""Follows the sources of pools: what a source says is put in force, and kept while it is away.

One `Watcher` follows one pool's source in one event loop. It sees to everything that is the same
for every source: what comes in quick succession is put in force together, a source that fails is
asked again after a pause, and what was known holds until it answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, suppress

from ..events import DiscoveryFailed, DiscoveryRecovered
from ..exceptions import DiscoveryError
from ..pool import Pool
from ..snapshot import Discovery, Snapshot

logger = logging.getLogger("sticky_asgi")

#: A change that is much work is put in force so many times its work later, together with what
#: follows; at most so many seconds.
PATIENCE = 20
MOST_PATIENCE = 0.06

#: Seconds that a source gets to end when it is not needed any more.
FAREWELL = 1.0


class Watcher:
    """Follows the source of one pool from the event loop that runs, until it is closed.

    Args:
        pool: The pool. Its source may change at any time.
        rng: Returns random numbers from 0 to 1.
    """

    def __init__(self, pool: Pool, rng: Callable[[], float] = random.random) -> None:
        self.pool = pool
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._spoke = asyncio.Event()
        self._newest: Snapshot | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._work = 0.0
        self._source: Discovery | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        pool.followers.add(self._look)
        self._follow_source()

    def _look(self) -> None:
        # The pool may be changed in another thread's loop, and this one may just have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._follow_source)

    def _follow_source(self) -> None:
        """Begin with the pool's present source, if it is another one than before."""
        source = self.pool.discovery
        if source is self._source:
            return
        self._stop()
        self._source = source
        if source is not None:
            self._task = self._loop.create_task(self._run(source))
            self._task.add_done_callback(_report)

    def _stop(self) -> None:
        self._forget_newest()
        task, self._task, self._source = self._task, None, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self, source: Discovery) -> None:
        failures = 0
        while True:
            began = self._loop.time()
            error = await self._watch(source)
            if source is not self._source:
                return  # It has taken its time to end.
            # One that soon fails each time is no better for having said something.
            has_held = self._loop.time() - began >= self.pool.watch.max_backoff
            failures = 1 if has_held else failures + 1
            pause = self._pause(failures, error)
            self._say(error, pause)
            await asyncio.sleep(pause)

    async def _watch(self, source: Discovery) -> BaseException:
        """Follow the source until it fails. Returns how."""
        try:
            async with AsyncExitStack() as stack:
                snapshots: AsyncIterator[Snapshot] = source.watch()
                if hasattr(snapshots, "aclose"):
                    stack.push_async_callback(snapshots.aclose)
                async for snapshot in snapshots:
                    self._hear(snapshot)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return exc  # Something that the source has waited for was cancelled.
        except Exception as exc:
            return exc
        return DiscoveryError("the source has ended")

    def _pause(self, failures: int, error: BaseException) -> float:
        options = self.pool.watch
        longest = min(options.min_backoff * 2.0 ** min(failures - 1, 30), options.max_backoff)
        pause = longest * (1 + self._rng()) / 2
        asked = error.retry_after if isinstance(error, DiscoveryError) else None
        return max(pause, asked or 0.0)

    def _say(self, error: BaseException, pause: float) -> None:
        pool, status = self.pool, self.pool.watch_status
        if isinstance(error, DiscoveryError):
            reason, bug = str(error), None
        else:
            reason, bug = f"{type(error).__name__}: {error}", error
        if status.fail(reason):
            kept = "kept" if status.has_snapshot else "not known yet"
            logger.warning(
                "pool %s: discovery fails: %s (its backends are %s)",
                pool.name, reason, kept, exc_info=bug,
            )  # fmt: skip
        pool.tell(
            DiscoveryFailed(pool=pool.name, reason=reason, failures=status.failures, pause=pause)
        )

    def _hear(self, snapshot: Snapshot) -> None:
        """The source has spoken: put it in force soon, with what else it says until then."""
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a source of backends must yield Snapshots, got {snapshot!r}")
        self._newest = snapshot
        if not self._spoke.is_set():
            self._apply()
        elif self._timer is None:
            delay = max(self.pool.watch.debounce, min(PATIENCE * self._work, MOST_PATIENCE))
            self._timer = self._loop.call_later(delay, self._apply)

    def _apply(self) -> None:
        snapshot, pool = self._newest, self.pool
        self._forget_newest()
        assert snapshot is not None
        began = self._loop.time()
        try:
            pool.follow(snapshot)
        except ValueError as exc:
            if pool.watch_status.fail(str(exc)):
                logger.warning("pool %s: discovery says what cannot be: %s", pool.name, exc)
        else:
            self._recover()
        self._work = self._loop.time() - began
        self._spoke.set()

    def _recover(self) -> None:
        failures = self.pool.watch_status.recover()
        if failures:
            logger.info("pool %s: discovery is back", self.pool.name)
            self.pool.tell(DiscoveryRecovered(pool=self.pool.name, failures=failures))

    def _forget_newest(self) -> None:
        self._newest = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait_for_start(self) -> None:
        """Wait for the first snapshot, as far as the pool wants that. Raises DiscoveryError."""
        options = self.pool.watch
        if self.pool.discovery is None or options.start == "empty":
            return
        try:
            async with asyncio.timeout(options.start_timeout):
                await self._spoke.wait()
        except TimeoutError:
            reason = self.pool.watch_status.error or "it has not answered"
            raise DiscoveryError(
                f"pool {self.pool.name}: {self.pool.discovery!r} named no backends within "
                f"{options.start_timeout:g} seconds: {reason}"
            ) from None

    async def aclose(self) -> None:
        """Follow nobody any more. What is known stays in force."""
        self.pool.followers.discard(self._look)
        self._stop()
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=FAREWELL)
            if late:
                logger.warning("pool %s: its discovery does not end", self.pool.name)

    def __repr__(self) -> str:
        return f"<Watcher of {self.pool.name}: {self._source!r}>"


def _report(task: asyncio.Task[None]) -> None:
    """A bug must not end discovery in silence."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.error("discovery has ended by a fault of the gateway's own", exc_info=exc)


class Watchers:
    """The watchers of one gateway in one event loop: one for each of its pools."""

    def __init__(self) -> None:
        self._watchers: dict[Pool, Watcher] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, pools: Iterable[Pool]) -> None:
        """Follow the sources of these pools, and of no others."""
        wanted = dict.fromkeys(pools)
        for pool in wanted:
            if pool not in self._watchers:
                self._watchers[pool] = Watcher(pool)
        for pool in [pool for pool in self._watchers if pool not in wanted]:
            task = asyncio.get_running_loop().create_task(self._watchers.pop(pool).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

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
        if self._closing:
            await asyncio.wait(self._closing)

    def __repr__(self) -> str:
        return f"<Watchers of {len(self._watchers)} pools>"
