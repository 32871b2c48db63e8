"""A wall clock for tests that must not wait."""

from __future__ import annotations


class VirtualClock:
    """A wall clock that stands still until it is told to move.

    Give it to `SignedCookie(..., clock=clock)` to see sessions expire without waiting, or to
    `Pool(..., clock=clock)` to see ejected backends come back.

    Args:
        now: Seconds since the epoch that it shows at first. Default 1700000000, a day in
            November 2023.

    Example:
        clock = VirtualClock()
        pool = Pool("shop", backends, affinity=SignedCookie(SECRET, idle_timeout=60, clock=clock))
        ...
        clock.advance(61)
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """The time it shows, in seconds since the epoch."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by some seconds; by a negative number, back, as corrected clocks do."""
        self._now += seconds

    def __repr__(self) -> str:
        return f"<VirtualClock {self._now:.3f}>"
