"""Chance, by weight."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from ..alike import Alike
from ..backend import BackendState
from ..checks import check_object
from ..request import RequestInfo
from .candidates import memory_key, shares


class Wheel:
    """A wheel of fortune on which each candidate's sector is as wide as its weight."""

    __slots__ = ("_bounds", "_seen", "members", "random", "weights")

    def __init__(self, rng: random.Random | None) -> None:
        check_object("rng", rng, "random")
        # The module's own is seeded anew in a forked process; another object would make the same
        # picks in every worker.
        self.random = random.random if rng is None else rng.random
        self._seen: Sequence[BackendState] | None = None
        self._bounds: list[float] = []
        self.members: list[BackendState] = []
        self.weights: list[float] = []

    def spin(self, candidates: Sequence[BackendState]) -> int:
        """The position among `members` where the wheel stops."""
        if candidates is not self._seen:
            self.members, self.weights = shares(candidates)
            self._bounds = list(accumulate(self.weights))
            self._seen = memory_key(candidates)
        bounds = self._bounds
        return bisect(bounds, self.random() * bounds[-1], 0, len(bounds) - 1)

    def spin_past(self, taken: int) -> int:
        """Where it stops once the sector `taken` is cut out; there must be another."""
        bounds, width = self._bounds, self.weights[taken]
        point = self.random() * (bounds[-1] - width)
        if point >= bounds[taken] - width:
            point += width
        position = bisect(bounds, point, 0, len(bounds) - 1)
        if position == taken:  # by rounding, at the edge of very unequal sectors
            return taken - 1 if taken else 1
        return position


class Random(Alike):
    """A random backend, in proportion to the weights.

    Gateways that do not know of each other do not fall into step with it, as they may with
    `RoundRobin`.

    Args:
        rng: Source of randomness. Default: `random.random`, which every forked worker seeds anew;
            give a seeded `random.Random` and the picks repeat.

    Source: Envoy's `RANDOM`, HAProxy's `balance random(1)`.
    """

    __slots__ = ("_wheel",)

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._wheel = Wheel(rng)

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick a backend by weight alone."""
        position = self._wheel.spin(candidates)
        return self._wheel.members[position]

    def _options(self) -> tuple[object, ...]:
        return (self._wheel.random,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class TwoChoices(Alike):
    """The less busy of two random backends: the power of two choices.

    Nearly as even as `LeastRequests`, at a cost that does not grow with the pool; and since not
    every gateway sees the same least busy backend, several gateways do not all rush to it.

    Args:
        rng: Source of randomness. Default: `random.random`, which every forked worker seeds anew;
            give a seeded `random.Random` and the picks repeat.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); nginx's
    `random two least_conn`, Traefik's `p2c`. Both draws are distinct and by weight.
    """

    __slots__ = ("_wheel",)

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._wheel = Wheel(rng)

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the one of two that has fewer requests in flight for its weight."""
        wheel = self._wheel
        first = wheel.spin(candidates)
        members, weights = wheel.members, wheel.weights
        if len(members) == 1:
            return members[0]
        second = wheel.spin_past(first)
        one, other = members[first], members[second]
        # On a tie the first draw stands, so that an idle pool is shared by weight.
        return one if one.in_flight / weights[first] <= other.in_flight / weights[second] else other

    def _options(self) -> tuple[object, ...]:
        return (self._wheel.random,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
