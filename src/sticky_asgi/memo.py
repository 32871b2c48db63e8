"""A bounded memory for what is made of things that come again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Keys of which it is known that they came once, for each that is remembered.
_MET = 8


class Memo(Generic[K, V]):
    """Remembers a result from its key's second time on; of the first, only that it came.

    Keys that come once, as all of a busy hour may, thus push nobody out and hold no memory. When
    it is full it forgets everything: what is needed is there again after two more times.

    Args:
        size: Results that are remembered at most.

    Attributes:
        get: The result for a key, or None. Raises TypeError for a key that cannot be hashed.
    """

    __slots__ = ("_known", "_met", "_size", "get")

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[K, V] = {}
        self._met: set[int] = set()
        self.get = self._known.get

    def offer(self, key: K, result: V) -> None:
        """A result has been made for a key that `get` did not know."""
        mark = hash(key)
        if mark not in self._met:
            if len(self._met) >= _MET * self._size:
                self._met.clear()
            self._met.add(mark)
            return
        if len(self._known) >= self._size:
            self._known.clear()
        self._known[key] = result

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Memo {len(self._known)} of {self._size}>"
