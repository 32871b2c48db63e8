"""Small ASGI back ends the tests put behind a gateway. They decide nothing about routing.

The instances at the end are what `ProcessBackend` serves: `ProcessBackend("tests.apps:counter")`.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import os
import threading

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol, so that apps may be served with `lifespan="on"`."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send one complete response with a Content-Length."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, content: object) -> None:
    body = json.dumps(content).encode()
    await respond(send, 200, [(b"content-type", b"application/json")], body)


class CounterApp:
    """A stateful back end: counts its own requests, so a visitor sees which replica answered.

    Answers `{"backend": name, "count": n}`; `GET /healthz` answers 200 without counting.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["path"] == "/healthz":
            await respond(send, 200, [(b"content-type", b"text/plain")], b"ok")
        else:
            self.count += 1
            await respond_json(send, {"backend": self.name, "count": self.count})


class EchoApp:
    """Answers with what arrived, as JSON; bytes are decoded as latin-1, so nothing is lost.

    Keys: `method`, `target` (raw path and query), `path`, `root_path`, `scheme`, `http_version`,
    `headers` (list of pairs, in order), `body_length`, `body_sha256`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        digest, length = hashlib.sha256(), 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            digest.update(message.get("body", b""))
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        await respond_json(
            send,
            {
                "method": scope["method"],
                "target": target.decode("latin-1"),
                "path": scope["path"],
                "root_path": scope["root_path"],
                "scheme": scope["scheme"],
                "http_version": scope["http_version"],
                "headers": [
                    [n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]
                ],
                "body_length": length,
                "body_sha256": digest.hexdigest(),
            },
        )


class StreamApp:
    """A response whose pieces the test hands out one by one, from its own thread.

    `push()` sends a piece, `end()` ends the response, `fail()` aborts it. What is pushed before
    the request arrives waits for it. One request at a time.

    Attributes:
        started: Set when the response head has been sent.
        disconnected: Set when the client is gone: `http.disconnect` or a cancelled task.
        finished: Set when the app has returned, however it ended.
    """

    def __init__(
        self, *, status: int = 200, headers: Headers | None = None, disconnect: bool = True
    ) -> None:
        self.status = status
        self.headers = [(b"content-type", b"text/event-stream")] if headers is None else headers
        self.watches_disconnect = disconnect
        self.started = threading.Event()
        self.disconnected = threading.Event()
        self.finished = threading.Event()
        self._pieces: collections.deque[bytes | BaseException | None] = collections.deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def push(self, piece: bytes) -> None:
        self._put(piece)

    def end(self) -> None:
        self._put(None)

    def fail(self) -> None:
        self._put(RuntimeError("StreamApp.fail()"))

    def _put(self, item: bytes | BaseException | None) -> None:
        with self._lock:
            self._pieces.append(item)
            if self._loop is not None and self._wake is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        with self._lock:
            self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
            self._wake.set()
        watcher = asyncio.create_task(self._watch(receive)) if self.watches_disconnect else None
        try:
            await self._stream(send)
        except asyncio.CancelledError:
            self.disconnected.set()
            raise
        finally:
            with self._lock:
                self._loop = self._wake = None
            if watcher is not None:
                watcher.cancel()
                await asyncio.wait([watcher])
            self.finished.set()

    async def _watch(self, receive: Receive) -> None:
        message: Message = {"type": "http.request"}
        while message["type"] != "http.disconnect":
            message = await receive()
        self.disconnected.set()
        self._put(None)

    async def _stream(self, send: Send) -> None:
        assert self._wake is not None
        headers = self.headers
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # uvicorn writes the head with the first body message; an empty one makes it go out now.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        self.started.set()
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                if isinstance(piece, BaseException):
                    raise piece
                if piece is None:
                    if not self.disconnected.is_set():
                        await send({"type": "http.response.body", "body": b""})
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._wake.clear()
            if not self._pieces:
                await self._wake.wait()


def hello(name: str = "hello") -> ASGIApp:
    """An app that answers 200 with `name` as text, whatever is asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await respond(send, 200, [(b"content-type", b"text/plain")], name.encode())

    return app


counter = CounterApp(os.environ.get("BACKEND_NAME", "backend"))
echo = EchoApp()
