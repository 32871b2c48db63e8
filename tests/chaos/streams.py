"""Visitors who keep something open: an event stream or a WebSocket, and open it again once cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

#: Seconds until it is opened again.
PAUSE = 0.2


class Streams:
    """Event streams and WebSockets through a gateway, as many of each. An async context manager.

    Attributes:
        opened: How often one was opened.
        cut: How often one ended, or was not opened.
        wrong: How often a message was not what had to come.
    """

    def __init__(self, port: int, count: int) -> None:
        self.opened = self.cut = self.wrong = 0
        self._port = port
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for watch in (self._read_events, self._echo):
            self._tasks += [asyncio.create_task(self._again(watch)) for _ in range(self._count)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for end in await asyncio.gather(*self._tasks, return_exceptions=True):
            # Whatever a gateway does, anything else is a bug of these.
            if isinstance(end, Exception):
                raise end

    async def _again(self, watch: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, WebSocketException):
                await watch()
            self.cut += 1
            await asyncio.sleep(PAUSE)

    async def _read_events(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(b"GET /events HTTP/1.1\r\nHost: chaos.test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                return
            self.opened += 1
            boot, rest = None, b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                # A proxy may pass on several events in a chunk, and parts of one.
                *events, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
                for event in events:
                    told = json.loads(event.removeprefix(b"data: "))["boot"]
                    self.wrong += boot not in (None, told)
                    boot = told
        finally:
            writer.close()

    async def _echo(self) -> None:
        async with connect(f"ws://127.0.0.1:{self._port}/ws", compression=None) as websocket:
            self.opened += 1
            for number in itertools.count():
                await websocket.send(str(number))
                self.wrong += await websocket.recv() != str(number)
                await asyncio.sleep(PAUSE)
