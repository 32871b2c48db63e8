"""A bounded memory for what is made of things that come again."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Places for keys of which it is known that they came once, for each that is remembered.
_MET = 4

#: What no hash is.
_NOBODY = -1


class Memo(Generic[K, V]):
    """Remembers a result from its key's second time on; of the first, only that it came.

    Keys that come once, as all of a busy hour may, thus push nobody out and hold no memory. When
    it is full the oldest result makes room: what it holds neither grows then, nor shrinks and grows
    again, which would leave holes in the memory of a process.

    Args:
        size: Results that are remembered at most.

    Attributes:
        get: The result for a key, or None. Raises TypeError for a key that cannot be hashed.
    """

    __slots__ = ("_known", "_met", "_size", "get")

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[K, V] = {}
        # A key has one place, by its hash, until another one comes that has the same.
        self._met = array("q", [_NOBODY]) * (_MET * size)
        self.get = self._known.get

    def offer(self, key: K, result: V) -> None:
        """A result has been made for a key that `get` did not know."""
        mark = hash(key)
        place = mark % len(self._met)
        if self._met[place] != mark:
            self._met[place] = mark
            return
        while len(self._known) >= self._size:
            # Another thread may be doing the same.
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._known[next(iter(self._known))]
        self._known[key] = result

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Memo {len(self._known)} of {self._size}>"
