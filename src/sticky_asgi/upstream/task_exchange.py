"""An exchange that runs in a task of its own and hands its response over piece by piece.

The httpx lane and the in-process lane share it: both drive foreign code that must be cancelled as
a whole, from one place, and be seen to have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..exceptions import ConnectionLost, MalformedResponse, Stage
from ..headers import downstream_headers
from ..request import RawHeaders
from .client import BODILESS


class TaskExchange:
    """A response being produced by a task. Subclasses write `produce`.

    At most one piece of the body waits to be read, so a slow reader slows the producer.

    Args:
        backend_id: Who answers, for messages.
        method: The request's method: the response to HEAD has no body.
    """

    def __init__(self, backend_id: str, method: str) -> None:
        self._who = f"backend {backend_id}"
        self._method = method
        self.status = 0
        self.headers: RawHeaders = []
        self._scope = anyio.CancelScope()
        self._sink, self._source = anyio.create_memory_object_stream[bytes](1)
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: BaseException | None = None
        self._is_last = False
        self._is_read = False
        self._task: asyncio.Task[None] | None = None

    # For subclasses, inside the task.

    async def produce(self) -> None:
        """Call `start` once, `deliver` for each piece, and return; or raise a GatewayError."""
        raise NotImplementedError

    def start(self, status: int, headers: RawHeaders) -> None:
        """The head has arrived. Raises MalformedResponse if there is no such answer."""
        if not 200 <= status <= 599:
            raise MalformedResponse(f"{self._who} answered {status!r}")
        self.begin(status, downstream_headers(headers, status=status))

    def begin(self, status: int, headers: RawHeaders) -> None:
        """The head has arrived and has been checked."""
        self.status, self.headers = status, headers
        if not self._head.done():
            self._head.set_result(None)

    async def deliver(self, piece: bytes, *, is_last: bool = False) -> None:
        """A piece of the body has arrived; returns when there is room for another."""
        # RFC 9112 §6.3: such a response ends with its head, whatever its producer says.
        if piece and self._method != "HEAD" and self.status not in BODILESS:
            try:
                self._sink.send_nowait(piece)
            except anyio.WouldBlock:
                await self._sink.send(piece)
        # Only now: a reader that finds the last piece announced must find it there.
        self._is_last = self._is_last or is_last

    async def abandon(self) -> None:
        """The reader has gone. By default the task is cancelled."""
        self._scope.cancel()

    # For the gateway.

    async def open(self, tasks: set[asyncio.Task[None]]) -> None:
        """Start the task, register it in `tasks` while it runs, and wait for the head."""
        self._task = asyncio.get_running_loop().create_task(self._main())
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)
        self._task.add_done_callback(self._ended)
        async with self._closing_on_failure():
            await self._head

    @asynccontextmanager
    async def _closing_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self.aclose()
            raise

    async def _main(self) -> None:
        with self._scope:
            try:
                await self.produce()
            except Exception as exc:
                self._fail(exc)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step never runs.
        if task.cancelled() or self._scope.cancelled_caught:
            self._fail(ConnectionLost(f"{self._who}: the exchange was cancelled", stage=self.stage))
        elif (exc := task.exception()) is not None:
            # No Exception, or it would have been dealt with: a test framework's own, say.
            self._fail(ConnectionLost(f"{self._who} raised {type(exc).__name__}", stage=self.stage))
        self._sink.close()

    @property
    def stage(self) -> Stage:
        """What is being waited for: the head or the body."""
        return "body" if self.status else "head"

    def _fail(self, exc: Exception) -> None:
        if self._head.done():
            self._error = self._error or exc
        else:
            self._head.set_exception(exc)

    @property
    def at_end(self) -> bool:
        """Whether the body is over and everything of it has been read."""
        return self._is_read or (
            self._is_last
            and self._error is None
            and not self._source.statistics().current_buffer_used
        )

    async def read(self) -> bytes:
        """The next piece of the body; `b""` at its end."""
        if self.at_end:
            return b""
        async with self._closing_on_failure():
            try:
                return await self._source.receive()
            except anyio.EndOfStream:
                if self._error is not None:
                    raise self._error from None
                self._is_read = True
                return b""

    async def aclose(self) -> None:
        """Let go of the response; if it is not over, the producer is told to stop."""
        self._source.close()
        self._error = None  # Its traceback leads here.
        if self._task is not None and not self._task.done():
            await self.abandon()
