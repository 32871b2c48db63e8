"""A timer that is set for every request and hardly ever goes off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LazyTimer:
    """One deadline that can be moved for the price of an assignment.

    The event loop is only asked to call back when it has not been asked already; when that call
    comes too early, because the deadline has moved meanwhile, it is put off.

    Args:
        loop: The event loop.
    """

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._when = 0.0
        self._callback: Callable[[], None] | None = None

    def start(self, seconds: float | None, callback: Callable[[], None]) -> None:
        """Have `callback` called in so many seconds instead of what was set; None: never."""
        if seconds is None:
            self._callback = None
            return
        self._when = self._loop.time() + seconds
        self._callback = callback
        if self._handle is not None and self._handle.when() > self._when:
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._handle = self._loop.call_at(self._when, self._look)

    def stop(self) -> None:
        """Have nothing called."""
        self._callback = None

    def close(self) -> None:
        """Leave nothing behind in the event loop."""
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle = None
        callback = self._callback
        if callback is None:
            return
        # An event loop may be early by the resolution of its clock.
        if self._when - self._loop.time() > 0.001:
            self._handle = self._loop.call_at(self._when, self._look)
            return
        self._callback = None
        callback()
