"""Follows one source in one event loop, whatever it tells: pauses, patience, the last good word.

What comes in quick succession is put in force together. A source that fails is asked again after
a pause, which grows as long as it goes on failing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Generic, TypeVar

from ..exceptions import DiscoveryError
from ..snapshot import WatchOptions, WatchStatus

logger = logging.getLogger("sticky_asgi")

T = TypeVar("T")

#: Where changes are much work, each is put in force later, together with what follows: so that it
#: takes at most one part in so many of the time, but no later than so many seconds.
SHARE = 20
PATIENCE = 0.04

#: Seconds that a source gets to end when it is not needed any more.
FAREWELL = 1.0


class Follower(Generic[T]):
    """Follows a source from the event loop that runs, from `begin` until `aclose`.

    Args:
        name: Whose source it is, for the log: `pool shop`.
        status: Where failures are counted.
        options: Tells how to follow.
        apply: Puts a word in force. Raises ValueError if it cannot be.
        on_failure: Told of each failure: the reason, and seconds until the source is asked again;
            0 where it was heard and cannot be believed.
        on_recovery: Told when the source is back, and after how many failures.
        rng: Returns random numbers from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        status: Callable[[], WatchStatus],
        options: Callable[[], WatchOptions],
        apply: Callable[[T], object],
        *,
        on_failure: Callable[[str, float], object],
        on_recovery: Callable[[int], object],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._status = status
        self._options = options
        self._put_in_force = apply
        self._on_failure = on_failure
        self._on_recovery = on_recovery
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._spoke = asyncio.Event()
        #: The last word that is not in force yet, and when it was heard.
        self._newest: tuple[T, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: Seconds of CPU time that the last change took, and the lesser of the last two: a single
        #: one may have been held up by the garbage collector.
        self._last_work = self._work = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def begin(self, watch: Callable[[], AsyncIterator[T]]) -> None:
        """Follow this source, and no other any more."""
        self._leave()
        self._task = self._loop.create_task(self._run(watch))
        self._task.add_done_callback(_report)

    def end(self) -> None:
        """Follow nobody any more. What is in force stays, and nobody waits for a first word."""
        self._leave()
        self._spoke.set()

    def _leave(self) -> None:
        self._forget_newest()
        self._status().forget(self)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _run(self, watch: Callable[[], AsyncIterator[T]]) -> None:
        # A task that begins eagerly would do so before `begin` knows that it is the one.
        await asyncio.sleep(0)
        failures = 0
        while True:
            began = self._loop.time()
            error = await self._watch(watch)
            if self._task is not asyncio.current_task():
                return  # It has taken its time to end.
            if self._newest is not None:
                # Put in force later, it would hide that the source has failed since.
                self._apply()
            # One that soon fails each time is no better for having said something.
            has_held = self._loop.time() - began >= self._options().max_backoff
            failures = 1 if has_held else failures + 1
            pause = self._pause(failures, error)
            self._fail(error, pause)
            await asyncio.sleep(pause)

    async def _watch(self, watch: Callable[[], AsyncIterator[T]]) -> BaseException:
        """Follow the source until it fails. Returns how."""
        try:
            async with AsyncExitStack() as stack:
                words = watch()
                if hasattr(words, "aclose"):
                    stack.push_async_callback(words.aclose)
                async for word in words:
                    if self._task is not asyncio.current_task():
                        break  # It does not heed that it was cancelled.
                    self._hear(word)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return exc  # Something that the source has waited for was cancelled.
        except Exception as exc:
            return exc
        return DiscoveryError("the source has ended")

    def _pause(self, failures: int, error: BaseException) -> float:
        options = self._options()
        longest = min(options.min_backoff * 2.0 ** min(failures - 1, 30), options.max_backoff)
        pause = longest * (1 + self._rng()) / 2
        asked = error.retry_after if isinstance(error, DiscoveryError) else None
        return max(pause, asked or 0.0)

    def _fail(self, error: BaseException, pause: float) -> None:
        if isinstance(error, DiscoveryError):
            reason, bug = str(error), None
        else:
            reason, bug = f"{type(error).__name__}: {error}", error
        status = self._status()
        if status.fail(reason, self):
            kept = "kept" if status.has_snapshot else "not known yet"
            logger.warning("%s: discovery fails: %s (its backends are %s)",
                           self.name, reason, kept, exc_info=bug)  # fmt: skip
        self._on_failure(reason, pause)

    def _hear(self, word: T) -> None:
        """The source has spoken: put it in force soon, with what else it says until then."""
        self._newest = word, time.monotonic()
        if not self._spoke.is_set():
            self._apply()
        elif self._timer is None:
            patience = min(self._work * SHARE, PATIENCE)
            delay = max(self._options().debounce, patience)
            self._timer = self._loop.call_later(delay, self._apply)

    def _apply(self) -> None:
        assert self._newest is not None
        word, heard = self._newest
        self._forget_newest()
        began = time.thread_time()
        try:
            self._status().put_in_force(heard, lambda: self._put_in_force(word))
        except ValueError as exc:
            self._refuse(str(exc), None)
        except Exception as exc:
            self._refuse(f"{type(exc).__name__}: {exc}", exc)
        else:
            self._recover()
        work = time.thread_time() - began
        self._work, self._last_work = min(work, self._last_work), work
        if self._status().has_snapshot:
            self._spoke.set()

    def _refuse(self, reason: str, bug: Exception | None) -> None:
        """The word cannot be put in force. The source is followed on: it may say another."""
        if self._status().fail(reason, self):
            logger.warning("%s: discovery says what cannot be: %s", self.name, reason, exc_info=bug)
        self._on_failure(reason, 0.0)

    def _recover(self) -> None:
        failures = self._status().recover(self)
        if failures:
            logger.info("%s: discovery is back", self.name)
            self._on_recovery(failures)

    def _forget_newest(self) -> None:
        self._newest = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait_for_start(self, source: object) -> None:
        """Wait for the first word, as far as the options want that. Raises DiscoveryError."""
        options = self._options()
        if options.start == "empty":
            return
        try:
            async with asyncio.timeout(options.start_timeout):
                await self._spoke.wait()
        except TimeoutError:
            reason = self._status().error or "it has not answered"
            raise DiscoveryError(
                f"{self.name}: {source!r} named no backends within "
                f"{options.start_timeout:g} seconds: {reason}"
            ) from None

    async def aclose(self) -> None:
        """Follow nobody any more, and see it end."""
        self.end()
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=FAREWELL)
            if late:
                logger.warning("%s: its discovery does not end", self.name)

    def __repr__(self) -> str:
        return f"<Follower for {self.name}>"


def _report(task: asyncio.Task[None]) -> None:
    """A bug must not end discovery in silence."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.error("discovery has ended by a fault of the gateway's own", exc_info=exc)
