"""The way out: a gateway that is told to stop says so first, and stops a while later.

Load balancers and Kubernetes learn only by and by that a gateway is to get no more visitors. One
that closes its listener at once turns away those who are sent meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from .gateway import Gateway

logger = logging.getLogger("sticky_asgi.serving")


class Stopping:
    """What SIGTERM, or Ctrl+C, sets going in a process.

    Args:
        delay: Seconds from SIGTERM until the server gets it. A second signal ends the wait. 0: at
            once, as with Ctrl+C always.
        gateway: Whose requests are counted for the log.

    Attributes:
        has_begun: Whether the signal has come.
        has_started: Whether there is anything to be finished. Until then a signal ends the process
            at once, as the server waits for the end of the start before it looks at signals.
    """

    def __init__(self, delay: float, gateway: Gateway) -> None:
        self.delay = delay
        self.has_begun = False
        self.has_started = False
        self._gateway = gateway

    @contextmanager
    def on_signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Take the signals from the server for the duration; without effect outside the main
        thread, where none come.
        """
        with ExitStack() as stack:
            for number, delay in ((signal.SIGTERM, self.delay), (signal.SIGINT, 0.0)):
                stack.enter_context(self._taken(number, delay, loop))
            yield

    @contextmanager
    def cancelled_quietly(self) -> Iterator[None]:
        """Let a start that a signal has ended be no failure, of which servers log the traceback."""
        try:
            yield
        except asyncio.CancelledError:
            if self.has_started or not self.has_begun:
                raise

    @contextmanager
    def _taken(
        self, number: signal.Signals, delay: float, loop: asyncio.AbstractEventLoop
    ) -> Iterator[None]:
        servers: Any = signal.getsignal(number)

        def begin(number: int, frame: FrameType | None) -> None:
            is_first, self.has_begun = not self.has_begun, True
            if not self.has_started:
                raise SystemExit(0)
            if is_first and delay:
                loop.call_soon_threadsafe(loop.call_later, delay, servers, number, frame)
            elif callable(servers):
                servers(number, frame)
            if is_first:
                loop.call_soon_threadsafe(self._say, delay)

        try:
            signal.signal(number, begin)
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            # The server may have taken its handler back already.
            if signal.getsignal(number) is begin:
                signal.signal(number, servers)

    def _say(self, delay: float) -> None:
        wait = f" in {delay:g} seconds" if delay else ""
        logger.info("stopping%s: %s", wait, what_is_left(self._gateway))


def what_is_left(gateway: Gateway) -> str:
    """`3 requests under way, of these 1 stream and 2 WebSockets`."""
    states = [state for pool in gateway.pools for state in pool.states]
    requests = sum(pool.in_flight for pool in gateway.pools)
    streams = sum(state.streams for state in states)
    websockets = sum(state.websockets for state in states)
    return (
        f"{_count(requests, 'request')} under way, of these {_count(streams, 'stream')} "
        f"and {_count(websockets, 'WebSocket')}"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
