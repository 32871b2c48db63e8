"""One watch: from the first event that it owes its client to its end."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from .errors import KubernetesError
from .go_json import encode
from .resources import Object, Resource
from .selectors import Selector
from .store import Event, Store, at_version

#: What the end of the initial events is marked with.
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class ConnectionCut(Exception):
    """Raised into the server to have it close a connection in the middle of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What a watch is asked for.

    Attributes:
        version: The version that the client knows: it gets what came after it. None: it knows
            nothing, and is told of everything that is there as ADDED.
        bookmarks: Whether it wants BOOKMARK events.
        marks_initial: Whether a bookmark is to say where the initial events end.
        timeout: Seconds until the stream ends; None for never.
        bookmark_interval: Seconds between two bookmarks.
    """

    version: int | None = None
    bookmarks: bool = False
    marks_initial: bool = False
    timeout: float | None = None
    bookmark_interval: float = 60.0


class Watch:
    """A stream of events, each a line of JSON. Made in the event loop that serves it; all methods
    but `lines` may be called from any thread.

    Args:
        store: What is watched.
        resource: Which kind of object.
        selector: Which of them.
        options: What the client asks for.

    Attributes:
        has_ended: Whether it is to get nothing more than what waits to be sent.
    """

    def __init__(
        self, store: Store, resource: Resource, selector: Selector, options: WatchOptions
    ) -> None:
        self.resource = resource
        self._store = store
        self._selector = selector
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.has_ended = False
        self._is_cut = False
        with store.lock:
            try:
                self._begin()
            except KubernetesError as exc:
                # The head is 200 by now in the real server as well: the refusal is an event.
                self.fail(exc)
            else:
                store.subscribe(self._on_event)

    def _begin(self) -> None:
        version = self._options.version
        if version is None:
            for _, obj in self._store.items(self.resource, self._selector):
                self.send(encode({"type": "ADDED", "object": obj}))
            if self._options.marks_initial:
                self.bookmark(_INITIAL_EVENTS_END)
        elif version <= self._store.version:
            for event in self._store.since(version):
                self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if event.resource is not self.resource or event.version <= (self._options.version or 0):
            return
        seen = event.seen_by(self._selector)
        if seen is not None:
            self.send(encode({"type": seen[0], "object": seen[1]}))

    # What can be done to it

    def send(self, line: bytes) -> None:
        """Send bytes as they are; whole lines are events."""
        if not self.has_ended:
            self._lines.append(line)
            self._rouse()

    def bookmark(self, annotations: dict[str, str] | None = None) -> None:
        """Tell the client of the newest version, if it wants to hear of that."""
        if not self._options.bookmarks:
            return
        with self._store.lock:
            metadata: Object = {"creationTimestamp": None}
            if annotations:
                metadata["annotations"] = annotations
            bare = {
                "kind": self.resource.kind,
                "apiVersion": self.resource.api_version,
                "metadata": metadata,
            }
            obj = at_version(bare, self._store.version)
            self.send(encode({"type": "BOOKMARK", "object": obj}))

    def fail(self, error: KubernetesError) -> None:
        """Send an ERROR event and end."""
        self.send(encode({"type": "ERROR", "object": error.status}))
        self.end()

    def end(self) -> None:
        """End the stream as one whose time is over, when what waits has been sent."""
        self.has_ended = True
        self._rouse()

    def cut(self) -> None:
        """Break the stream off in the middle of the response, when what waits has been sent."""
        self._is_cut = True
        self.end()

    def close(self) -> None:
        """Nobody listens any more."""
        self._store.unsubscribe(self._on_event)
        self._lines.clear()
        self.end()

    def _rouse(self) -> None:
        # The loop may be closed when a server was stopped before its stream.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    # What the server reads

    async def lines(self) -> AsyncIterator[bytes]:
        """What is to be sent, as it comes.

        Raises:
            ConnectionCut: The stream is to break off here.
        """
        begun = time.monotonic()
        timeout = self._options.timeout
        deadline = None if timeout is None else begun + timeout
        next_bookmark = begun + self._options.bookmark_interval
        while True:
            self._wake.clear()
            has_ended = self.has_ended
            while self._lines:
                yield self._lines.popleft()
            if has_ended:
                break
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                # What a client has to go on from next time.
                self.bookmark()
                self.end()
            elif now >= next_bookmark:
                self.bookmark()
                next_bookmark = now + self._options.bookmark_interval
            else:
                wait = next_bookmark if deadline is None else min(deadline, next_bookmark)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait - now)
        if self._is_cut:
            raise ConnectionCut("the stream is cut off on request")
