"""Keeps Python's cyclic garbage collector out of the way while JSON is worked through."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Have the collector wait, for a block without an `await`.

    An EndpointSlice is a thousand dicts for a moment, which are gone at the end of the block. To
    the collector they look like a program that grows, so that every few seconds it would go
    through all there is, for 30 milliseconds and more, and find nothing to collect.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
