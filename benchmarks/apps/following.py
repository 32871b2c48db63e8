"""A gateway whose pool follows a Service, and which notes what that does to its event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections import Counter

from starlette.types import Receive, Scope, Send

from benchmarks.apps import API, NOTES
from sticky_asgi import AnnotatedCookie, Gateway, IntentChanged, Pool, RequestFinished
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.events import PoolEvent
from sticky_asgi.serving import spare_collector

_PAUSE = 0.001


class Notes:
    """What has been noticed since the page was turned.

    Attributes:
        blocked: The longest time in seconds that a callback which was due waited for its turn.
        worked: The most CPU time in seconds that the loop's thread used from when it was set, a
            millisecond before it was due, until then.
        collected: The longest garbage collection, in seconds of CPU time; a part of the above.
        changes: Each change of a backend's intent: whose, and when it was in force, by the clock
            that all processes share.
        outcomes: How many requests ended how: status, and outcome of affinity.
    """

    def __init__(self) -> None:
        self.blocked = self.worked = self.collected = 0.0
        self.changes: list[tuple[str, float]] = []
        self.outcomes: Counter[str] = Counter()


class Observer:
    """Looks after the loop, the pool, the requests and the garbage collector."""

    def __init__(self) -> None:
        self.notes = Notes()
        self._collection_began = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = self._used = 0.0

    def observe(self, pool: Pool, event: PoolEvent) -> None:
        """A change is in force in the pool."""
        if isinstance(event, IntentChanged):
            self.notes.changes.append((event.backend, time.monotonic()))

    def on_request(self, event: RequestFinished) -> None:
        """The gateway has served a request."""
        affinity = "" if event.affinity is None else event.affinity.value
        self.notes.outcomes[f"{event.status} {affinity}"] += 1

    def turn_page(self) -> bytes:
        """The notes as JSON. The first time, the looking begins."""
        if self._loop is None:
            # As `sticky-asgi run` does when it has started.
            spare_collector()
            gc.callbacks.append(self._on_collection)
            self._loop = asyncio.get_running_loop()
            self._wait()
        notes, self.notes = self.notes, Notes()
        return json.dumps(vars(notes)).encode()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collection_began = now
        else:
            self.notes.collected = max(self.notes.collected, now - self._collection_began)

    def _wait(self) -> None:
        assert self._loop is not None
        self._due, self._used = time.monotonic() + _PAUSE, time.thread_time()
        self._loop.call_later(_PAUSE, self._on_turn)

    def _on_turn(self) -> None:
        notes = self.notes
        notes.blocked = max(notes.blocked, time.monotonic() - self._due)
        notes.worked = max(notes.worked, time.thread_time() - self._used)
        self._wait()


observer = Observer()
pool = Pool(
    "web",
    discovery=KubernetesService("web", namespace="shop", url=os.environ[API]),
    affinity=AnnotatedCookie("a secret for the benchmark only"),
)
pool.observers.add(observer)
gateway = Gateway({"/": pool}, listeners=[observer])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The gateway, but for the path of the notes."""
    if scope["type"] != "http" or scope["path"] != NOTES:
        await gateway(scope, receive, send)
        return
    body = observer.turn_page()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
