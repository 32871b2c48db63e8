"""What is made anew with the same options, as by a configuration that is read again."""

from __future__ import annotations


class Alike:
    """Equal to another of its type that has the same options, whatever either has learnt.

    So a pool can go on with what it has. A subclass may have options that are unknown here: until
    it has `_options` of its own, it equals nothing but itself.
    """

    __slots__ = ()

    def _options(self) -> tuple[object, ...]:
        return ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Alike) or type(other) is not type(self):
            return NotImplemented
        if "_options" not in vars(type(self)):
            return NotImplemented
        return self._options() == other._options()

    def __hash__(self) -> int:
        # Not by the options: a key function need not have a hash.
        return hash(type(self))
