"""A timer that is set for every request and hardly ever goes off."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class LazyTimer:
    """One deadline that can be moved for the price of an assignment.

    The event loop is only asked to call back when it has not been asked already; when that call
    comes too early, because the deadline has moved meanwhile, it is put off.

    Args:
        loop: The event loop.
    """

    __slots__ = ("_callback", "_due", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._when = 0.0
        self._due = math.inf  # when the loop has been asked for
        self._callback: Callable[[], None] | None = None

    def start(self, seconds: float | None, callback: Callable[[], None]) -> None:
        """Have `callback` called in so many seconds instead of what was set; None: never."""
        if seconds is None:
            self._callback = None
            return
        self._when = when = self._loop.time() + seconds
        self._callback = callback
        if when < self._due:
            if self._handle is not None:
                self._handle.cancel()
            self._ask(when)

    def _ask(self, when: float) -> None:
        self._due = when
        self._handle = self._loop.call_at(when, self._look)

    def stop(self) -> None:
        """Have nothing called."""
        self._callback = None

    def close(self) -> None:
        """Leave nothing behind in the event loop."""
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self._due = math.inf

    def _look(self) -> None:
        self._handle = None
        self._due = math.inf
        callback = self._callback
        if callback is None:
            return
        # An event loop may be early by the resolution of its clock.
        if self._when - self._loop.time() > 0.001:
            self._ask(self._when)
            return
        self._callback = None
        callback()
