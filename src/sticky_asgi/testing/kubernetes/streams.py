"""Responses that last, and those that break off."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .resources import Resource
from .watch import ConnectionCut, Watch


class Watches:
    """The watches that are being served. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: list[Watch] = []
        self._are_refused = False

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._served.append(watch)
            if self._are_refused:
                watch.cut()

    def refuse(self, are_refused: bool) -> None:
        """Break off those that are open, and those to come until this is taken back."""
        with self._lock:
            self._are_refused = are_refused
            for watch in self._served if are_refused else ():
                watch.cut()

    def remove(self, watch: Watch) -> None:
        with self._lock:
            self._served.remove(watch)

    def of(self, resource: Resource | None) -> list[Watch]:
        """Those that have not been told to end: of one resource, or with None all."""
        with self._lock:
            watches = [one for one in self._served if not one.has_ended]
        return [one for one in watches if resource in (None, one.resource)]


class WatchResponse(Response):
    """A watch as a response without an end of its own."""

    def __init__(self, watch: Watch, watches: Watches) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-cache, private"}, "application/json")
        # As long as it lasts, nobody knows how long it is.
        del self.headers["content-length"]
        self._watch = watch
        self._watches = watches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self._watch
        self._watches.add(watch)
        leaving = asyncio.create_task(_close_when_left(watch, receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            # By the ASGI specification a server keeps the head until the first piece of the body.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            async for line in watch.lines():
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._watches.remove(watch)
            watch.close()
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving


async def _close_when_left(watch: Watch, receive: Receive) -> None:
    await _left(receive)
    watch.close()


class CutOffResponse(Response):
    """A head and the beginning of a body; then the connection ends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"kind":', "more_body": True})
        raise ConnectionCut("the response is cut off on request")


class Gate:
    """Where requests wait until somebody opens it. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def wait(self, receive: Receive) -> None:
        """Wait for `open`.

        Raises:
            ClientDisconnect: The client has left meanwhile.
        """
        opened = asyncio.Event()
        place = (asyncio.get_running_loop(), opened)
        with self._lock:
            self._waiting.append(place)
        gone = asyncio.create_task(_left(receive))
        going_on = asyncio.create_task(opened.wait())
        try:
            await asyncio.wait((gone, going_on), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientDisconnect
        finally:
            gone.cancel()
            going_on.cancel()
            with self._lock:
                self._waiting.remove(place)

    def open(self) -> int:
        """Let everybody go on who waits now. Returns how many do."""
        with self._lock:
            for loop, opened in self._waiting:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(opened.set)
            return len(self._waiting)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
