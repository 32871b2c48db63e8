"""Slow start: a backend that comes back gets its share of new sessions little by little."""

from __future__ import annotations

#: In so many steps. Each is a change that every balancer has to look at.
STEPS = 10


def share_after(elapsed: float, duration: float) -> float:
    """The share of its weight that a backend has some seconds after its return.

    It begins with a tenth, as with Envoy, and grows by a tenth at a time.
    """
    steps = int(elapsed / duration * STEPS + 1e-6)
    return min(max(steps, 1), STEPS) / STEPS
