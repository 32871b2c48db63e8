"""Sources of backends that a test tells what to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from sticky_asgi import Backend, CookieSettings, Intent, Snapshot

NOBODY: Mapping[str, Intent] = {}


def snapshot(
    ids: Iterable[str],
    intents: Mapping[str, Intent] = NOBODY,
    affinity: CookieSettings | None = None,
) -> Snapshot:
    """A snapshot of backends `http://<id>`."""
    backends = tuple(Backend(f"http://{key}", id=key) for key in ids)
    return Snapshot(backends=backends, intents=intents, affinity=affinity)


class Scripted:
    """A source that yields what is put into it, and raises what is an exception.

    Attributes:
        began: When it was watched, by its loop's time.
        ended: How often a watch has ended.
    """

    def __init__(self, *script: Snapshot | BaseException) -> None:
        self._queue: asyncio.Queue[Snapshot | BaseException] = asyncio.Queue()
        self.began: list[float] = []
        self.ended = 0
        for item in script:
            self.say(item)

    def say(self, item: Snapshot | BaseException) -> None:
        self._queue.put_nowait(item)

    async def watch(self) -> AsyncIterator[Snapshot]:
        self.began.append(asyncio.get_running_loop().time())
        try:
            while True:
                item = await self._queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.ended += 1

    def __repr__(self) -> str:
        return "<Scripted>"
