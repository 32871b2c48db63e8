"""Sources of backends that a test tells what to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

from sticky_asgi import Backend, CookieSettings, Intent, Snapshot
from sticky_asgi.discovery import DiscoveredPool, RouteHint

T = TypeVar("T")

NOBODY: Mapping[str, Intent] = {}


def snapshot(
    ids: Iterable[str],
    intents: Mapping[str, Intent] = NOBODY,
    affinity: CookieSettings | None = None,
) -> Snapshot:
    """A snapshot of backends `http://<id>`."""
    backends = tuple(Backend(f"http://{key}", id=key) for key in ids)
    return Snapshot(backends=backends, intents=intents, affinity=affinity)


def found(
    name: str,
    ids: Iterable[str] = "a",
    *,
    path: str | None = None,
    routes: Iterable[RouteHint] = (),
    host: Literal["pass", "backend"] | None = None,
    affinity: CookieSettings | None = None,
) -> DiscoveredPool:
    """A pool with a route from `/<name>`, unless others are given."""
    return DiscoveredPool(
        name=name,
        snapshot=snapshot(ids, affinity=affinity),
        routes=tuple(routes) or (RouteHint(path=f"/{name}" if path is None else path),),
        host=host,
    )


class Script(Generic[T]):
    """Yields what is put into it, and raises what is an exception.

    Attributes:
        began: When it was watched, by its loop's time.
        ended: How often a watch has ended.
    """

    def __init__(self, *script: T | BaseException) -> None:
        self._queue: asyncio.Queue[T | BaseException] = asyncio.Queue()
        self.began: list[float] = []
        self.ended = 0
        for item in script:
            self.say(item)

    def say(self, item: T | BaseException) -> None:
        self._queue.put_nowait(item)

    async def tell(self) -> AsyncIterator[T]:
        self.began.append(asyncio.get_running_loop().time())
        try:
            while True:
                item = await self._queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.ended += 1


class Scripted(Script[Snapshot]):
    """A source of backends."""

    def watch(self) -> AsyncIterator[Snapshot]:
        return self.tell()

    def __repr__(self) -> str:
        return "<Scripted>"


class ScriptedPools(Script[Sequence[DiscoveredPool]]):
    """A source of pools."""

    def watch_pools(self) -> AsyncIterator[Sequence[DiscoveredPool]]:
        return self.tell()

    def __repr__(self) -> str:
        return "<ScriptedPools>"
