"""Event loops of a test's own."""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in an event loop of its own, for 10 seconds at most."""

    async def bounded() -> T:
        async with asyncio.timeout(10):
            return await main()

    return asyncio.run(bounded())


def run_and_collect(main: Callable[[], Awaitable[T]]) -> T:
    """As `run`. What was left open speaks up now, in the test that left it."""
    result = run(main)
    gc.collect()
    return result


class _Skipping(selectors.DefaultSelector):
    """A selector that does not wait: when nothing is ready, the time has passed."""

    now = 0.0
    waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
            self.waits += 1
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop where waiting takes no time; it begins at 0."""

    def __init__(self) -> None:
        self.selector = _Skipping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    @property
    def waits(self) -> int:
        """How often somebody would have waited."""
        return self.selector.waits


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]], loop: VirtualLoop | None = None) -> T:
    """Run a coroutine function in an event loop where waiting takes no time.

    What comes over sockets or from threads is found only when there is nothing else to wait for.

    Args:
        main: The coroutine function.
        loop: The event loop, which is closed. Default: one of its own.
    """
    with asyncio.Runner(loop_factory=lambda: loop or VirtualLoop()) as runner:
        return runner.run(main())


async def turn() -> None:
    """Let every other task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)
