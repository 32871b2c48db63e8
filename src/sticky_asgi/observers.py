"""Who has to act on what becomes of a pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from .events import PoolEvent

if TYPE_CHECKING:
    from .pool import Pool


class PoolObserver(Protocol):
    """Somebody who has to act on what becomes of a pool."""

    def observe(self, pool: Pool, event: PoolEvent) -> None:
        """Something has changed. Called in the thread that has changed it."""
        ...


class Observers:
    """A pool's observers, for as long as they live.

    Any thread may add one while others tell: no `WeakSet`, which may be iterated over only while
    nobody adds to it.
    """

    __slots__ = ("_adding", "_refs")

    def __init__(self) -> None:
        self._refs: tuple[ref[PoolObserver], ...] = ()
        self._adding = threading.Lock()

    def add(self, observer: PoolObserver) -> None:
        """Have somebody told of every change. Again: no effect."""
        with self._adding:
            living = [known for known in self._refs if known() is not None]
            if all(known() is not observer for known in living):
                living.append(ref(observer))
            self._refs = tuple(living)

    def __iter__(self) -> Iterator[PoolObserver]:
        for known in self._refs:
            observer = known()
            if observer is not None:
                yield observer

    def __repr__(self) -> str:
        return f"<Observers [{len([*self])}]>"
