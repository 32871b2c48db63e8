"""An open-loop load: so many requests each second, whether or not the earlier ones are answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from .visitors import Outcome, Visitor

RATE = 200
VISITORS = 150

#: Seconds.
TOO_LATE = 0.25


class Load:
    """Visitors who return again and again, and some who come once. An async context manager.

    Args:
        make_visitor: Makes one, by name.
        rate: Requests per second.
        visitors: How many return. Each has one request under way at a time.
        posts: Every so manieth request is a POST; 0: none is.
        newcomers: Every so manieth request comes from somebody without a cookie; 0: none does.
    """

    def __init__(
        self,
        make_visitor: Callable[[str], Visitor],
        *,
        rate: int = RATE,
        visitors: int = VISITORS,
        posts: int = 0,
        newcomers: int = 0,
    ) -> None:
        self._make_visitor = make_visitor
        self._rate = rate
        self._posts = posts
        self._newcomers = newcomers
        self.visitors: Sequence[Visitor] = [make_visitor(f"v{n}") for n in range(visitors)]
        #: Those who came once.
        self.newcomers: list[Visitor] = []
        self.outcomes: list[Outcome] = []
        #: Requests that were not made, because no visitor was free.
        self.unmade = 0
        #: While this is true, no requests are made.
        self.is_resting = False
        self._free = deque(self.visitors)
        #: How many requests `crowd` has made: theirs are numbered the other way.
        self._crowded = 0
        self._visits: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await asyncio.gather(*self._visits, return_exceptions=True)
            if self._failure is not None:
                raise self._failure
        finally:
            for visitor in self.visitors:
                visitor.leave()

    async def crowd(self, wait: float) -> None:
        """Have all visitors ask at one time, when the others are answered; for while it rests.

        Args:
            wait: Seconds that a replica is to take for an answer.
        """
        while self._visits:
            await asyncio.wait(self._visits)
        while self._free:
            self._crowded += 1
            self._start(self._return(self._free.popleft(), "GET", -self._crowded, wait))
        await asyncio.wait(self._visits)

    async def _run(self) -> None:
        began, number = time.monotonic(), 0
        while True:
            number += 1
            early = began + number / self._rate - time.monotonic()
            await asyncio.sleep(early)
            if early < -TOO_LATE:
                # This process was held up itself: what it has missed would come all at once.
                began -= early
            if self.is_resting:
                continue
            method = "POST" if self._posts and number % self._posts == 0 else "GET"
            # Not the same ones as the POSTs.
            if self._newcomers and number % self._newcomers == 1:
                self.newcomers.append(self._make_visitor(f"n{number}"))
                self._start(self._come_once(self.newcomers[-1], method, number))
            elif self._free:
                self._start(self._return(self._free.popleft(), method, number))
            else:
                self.unmade += 1

    def _start(self, visit: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(visit)
        self._visits.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._visits.discard(task)
        # Whatever a gateway does, this is a visitor's bug.
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()

    async def _return(
        self, visitor: Visitor, method: str, number: int, wait: float | None = None
    ) -> None:
        self.outcomes.append(await visitor.visit(method, number, wait))
        self._free.append(visitor)

    async def _come_once(self, visitor: Visitor, method: str, number: int) -> None:
        self.outcomes.append(await visitor.visit(method, number))
        visitor.leave()
