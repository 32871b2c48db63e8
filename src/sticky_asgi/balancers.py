"""Which backend a new visitor gets: the `Balancer` protocol and the built-in policies.

A balancer chooses among candidates the pool has already narrowed (see `pool.py`). It never looks at
health, intent or capacity again, never waits, and knows nothing of connections. All it changes is
its own memory and two fields of `BackendState` that are round robin's: `current_weight` and
`charged`.

    policy            compares                                cost of a pick
    RoundRobin        turns owed                              one look per distinct weight
    Random            nothing                                 a bisection
    LeastRequests     in flight / weight                      all candidates
    TwoChoices        in flight / weight, of two              two bisections
    LeastTime         latency * (in flight + 1) / weight      all candidates
    ConsistentHash    hash of key and id, by weight           one hash per candidate
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate
from typing import Protocol

from .backend import BackendState
from .checks import check_object
from .hash_keys import HashKey, client_key, cookie_key, header_key, path_key, query_key
from .request import RequestInfo


class Balancer(Protocol):
    """Picks one of the candidates for a visitor who belongs to none of them yet.

    One object serves one pool: what it remembers is about that pool's backends. It holds nothing
    that belongs to an event loop, so the pool may be used from several loops one after another.
    """

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick a backend; synchronous, so nothing happens between the pick and its count.

        Args:
            candidates: The backends that may be used now, in the order of the snapshot; never
                empty. The pool passes the same tuple object again until a backend, a weight or
                what is usable has changed, so work done for a tuple may be kept as long as
                `candidates is` that tuple. A candidate of weight 0 is to be picked only when
                all have weight 0: then all count alike.
            request: The request that needs a backend.

        Returns:
            One of the candidates.
        """
        ...


def _shares(candidates: Sequence[BackendState]) -> tuple[list[BackendState], list[float]]:
    """The candidates that may be picked, and their weights, none of which is 0."""
    weights = [state.weight for state in candidates]
    if all(weights):
        return list(candidates), weights
    # Weight 0 means no new sessions, unless nothing else is left: then all count alike.
    if not any(weights):
        return list(candidates), [1] * len(weights)
    members = [state for state in candidates if state.weight]
    return members, [state.weight for state in members]


def _memory_key(candidates: Sequence[BackendState]) -> Sequence[BackendState] | None:
    """What to compare the next candidates with. Only a tuple is sure to stay what it was."""
    return candidates if isinstance(candidates, tuple) else None


class _Group:
    """Backends of one weight: in a step of round robin they gain alike, so one sum does for all.

    A member's nginx `current_weight` is `gained` less its debt.
    """

    __slots__ = ("gained", "queue", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.gained: float = 0
        #: A heap of (debt, position among the candidates): whose turn is next comes first.
        self.queue: list[tuple[float, int]] = []


class RoundRobin:
    """Smooth weighted round robin, as nginx does it: exact weights, spread evenly. The default.

    Weights 5, 1 and 1 give `a a b a c a a`, not `a a a a a b c`. When the candidates change,
    everyone keeps the turns owed to them, so a change favours nobody.

    Pinned traffic counts: a backend that served pinned visitors since its last turn
    (`BackendState.charged`) loses this turn. It never loses two turns in a row: neither a burst
    of pinned requests nor a steady stream of them keeps new visitors away from a backend.

    Source: nginx, `ngx_http_upstream_get_peer`.
    """

    __slots__ = ("_excused", "_groups", "_members", "_seen", "_total")

    def __init__(self) -> None:
        self._seen: Sequence[BackendState] | None = None
        self._members: list[BackendState] = []
        self._groups: list[_Group] = []
        self._total: float = 0
        #: Backends that lost their last turn to pinned traffic.
        self._excused: set[BackendState] = set()

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend that is owed the most."""
        if candidates is not self._seen:
            self._save()
            self._load(candidates)
        while True:
            state = self._step()
            if state in self._excused:
                self._excused.remove(state)
            elif state.charged:
                state.charged = False
                self._excused.add(state)
                continue  # ends: who has lost a turn is excused the next time round
            return state

    def _step(self) -> BackendState:
        """One turn: everyone gains their weight, the richest pays the sum of it and is chosen."""
        groups = self._groups
        best = groups[0]
        best.gained += best.weight
        debt, position = best.queue[0]
        if len(groups) > 1:
            most = best.gained - debt
            for group in groups[1:]:
                group.gained += group.weight
                group_debt, group_position = group.queue[0]
                credit = group.gained - group_debt
                # Like nginx, the first in order of those who are owed the same.
                if credit > most or (credit == most and group_position < position):
                    best, most, debt, position = group, credit, group_debt, group_position
        heapreplace(best.queue, (debt + self._total, position))
        return self._members[position]

    def _save(self) -> None:
        """Leave with each backend what it is owed, in turns: weights may be others next time."""
        for group in self._groups:
            for debt, position in group.queue:
                self._members[position].current_weight = (group.gained - debt) / self._total

    def _load(self, candidates: Sequence[BackendState]) -> None:
        members, weights = _shares(candidates)
        total = sum(weights)
        groups: dict[float, _Group] = {}
        for position, (state, weight) in enumerate(zip(members, weights, strict=True)):
            group = groups.get(weight)
            if group is None:
                group = groups[weight] = _Group(weight)
            # More than a turn is never owed for long; a backend that was away comes back even.
            turns = min(1.0, max(-1.0, state.current_weight))
            group.queue.append((-turns * total if turns else 0, position))
        for group in groups.values():
            heapify(group.queue)
        self._members, self._total, self._groups = members, total, list(groups.values())
        self._excused.intersection_update(members)
        self._seen = _memory_key(candidates)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Wheel:
    """A wheel of fortune on which each candidate's sector is as wide as its weight."""

    __slots__ = ("_bounds", "_random", "_seen", "members", "weights")

    def __init__(self, rng: random.Random | None) -> None:
        check_object("rng", rng, "random")
        # The module's own is seeded anew in a forked process; another object would make the same
        # picks in every worker.
        self._random = random.random if rng is None else rng.random
        self._seen: Sequence[BackendState] | None = None
        self._bounds: list[float] = []
        self.members: list[BackendState] = []
        self.weights: list[float] = []

    def spin(self, candidates: Sequence[BackendState]) -> int:
        """The position among `members` where the wheel stops."""
        if candidates is not self._seen:
            self.members, self.weights = _shares(candidates)
            self._bounds = list(accumulate(self.weights))
            self._seen = _memory_key(candidates)
        bounds = self._bounds
        return bisect(bounds, self._random() * bounds[-1], 0, len(bounds) - 1)

    def spin_past(self, taken: int) -> int:
        """Where it stops once the sector `taken` is cut out; there must be another."""
        bounds, width = self._bounds, self.weights[taken]
        point = self._random() * (bounds[-1] - width)
        if point >= bounds[taken] - width:
            point += width
        position = bisect(bounds, point, 0, len(bounds) - 1)
        if position == taken:  # by rounding, at the edge of very unequal sectors
            return taken - 1 if taken else 1
        return position


class Random:
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
        self._wheel = _Wheel(rng)

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick a backend by weight alone."""
        position = self._wheel.spin(candidates)
        return self._wheel.members[position]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class TwoChoices:
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
        self._wheel = _Wheel(rng)

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Ring:
    """The candidates in a circle, to be looked at from behind the one picked last."""

    __slots__ = ("_last", "_places", "_seen", "_turn", "members")

    def __init__(self) -> None:
        self._seen: Sequence[BackendState] | None = None
        self._last: BackendState | None = None
        self._turn = 0
        #: (position, state, weight), twice over: a turn is one slice, wherever it begins.
        self._places: list[tuple[int, BackendState, float]] = []
        self.members: list[BackendState] = []

    def turn(self, candidates: Sequence[BackendState]) -> list[tuple[int, BackendState, float]]:
        """Every candidate once, as (position, state, weight), the one picked last at the end."""
        if candidates is not self._seen:
            self._load(candidates)
        return self._places[self._turn : self._turn + len(self.members)]

    def take(self, position: int) -> BackendState:
        """Pick the candidate at a position; the next turn begins behind it."""
        self._last = self.members[position]
        self._turn = position + 1
        return self._last

    def _load(self, candidates: Sequence[BackendState]) -> None:
        members, weights = _shares(candidates)
        if self._last in members:
            self._turn = members.index(self._last) + 1
        elif self._last is not None:
            # It left, often because it is full now: who stood behind it has moved up.
            self._turn = (self._turn - 1) % len(members)
        self._places = list(zip(range(len(members)), members, weights, strict=True)) * 2
        self.members = members
        self._seen = _memory_key(candidates)


class LeastRequests:
    """The backend with the fewest requests in flight for its weight; equals take turns.

    For requests of very different length. It counts what this process sent: with several
    gateways or workers each sees its own share only, and `TwoChoices` errs less. It looks at
    every candidate until it finds an idle one: beyond some hundred backends prefer `TwoChoices`.

    Source: HAProxy's `balance leastconn`; nginx's `least_conn`, which breaks ties by weight.
    """

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring = _Ring()

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the least busy backend."""
        best, least = 0, math.inf
        for position, state, weight in self._ring.turn(candidates):
            load = state.in_flight / weight
            if load < least:
                best, least = position, load
                if not load:
                    break
        return self._ring.take(best)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LeastTime:
    """The backend that is likely to answer first: latency * (in flight + 1) / weight, the least.

    Latency is the moving average of the time to first byte (`BackendState.latency`). A backend
    that has not answered yet comes first while it is idle; with its first requests in flight it
    counts as slow as the slowest candidate, so a cold one is tried but not flooded. So does one
    that failed since its last answer, and each failure counts like a request in flight: a dead
    backend, which is always idle, would attract everybody else. One pick in `PROBE_EVERY` goes to
    the next idle candidate in turn, whatever its latency: else a backend that was slow or failed
    might never get another visitor to show that it has recovered.

    Source: nginx's `least_time header`, Finagle's Peak EWMA.
    """

    __slots__ = ("_picks", "_probed", "_ring")

    #: One pick in so many measures a backend anew.
    PROBE_EVERY = 100

    def __init__(self) -> None:
        self._ring = _Ring()
        self._picks = 0
        self._probed = 0

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend with the least expected time."""
        ring = self._ring
        places = ring.turn(candidates)
        self._picks += 1
        if self._picks % self.PROBE_EVERY == 0:
            self._probed = (self._probed + 1) % len(places)
            # Idle ones only: one that hangs is not given a second visitor to find out.
            if ring.members[self._probed].in_flight == 0:
                return ring.take(self._probed)
        best, least, slowest = places[0][0], (math.inf, 0), 0.0
        unsure: list[tuple[int, BackendState, float]] = []
        for place in places:
            position, state, weight = place
            latency = state.latency
            if latency is None:
                if state.in_flight == 0 and not state.failures:
                    return ring.take(position)
                unsure.append(place)
                continue
            if latency > slowest:
                slowest = latency
            if state.failures:
                unsure.append(place)
                continue
            cost = (latency * (state.in_flight + 1) / weight, state.in_flight)
            if cost < least:
                best, least = position, cost
        for position, state, weight in unsure:
            # Where nothing was measured yet, any figure does: it is the same for all.
            load = state.in_flight + state.failures
            cost = ((slowest or 1.0) * (load + 1) / weight, load)
            if cost < least:
                best, least = position, cost
        return ring.take(best)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_KEY_FUNCTIONS: tuple[object, ...] = (client_key, cookie_key, header_key, path_key, query_key)


class ConsistentHash:
    """The same backend for the same key, with nothing remembered: weighted rendezvous hashing.

    A backend that leaves gives up its own visitors only, one that joins or grows takes a fair
    share from each of the others, and nobody else moves. The result depends on nothing but the
    key, the ids and the weights: gateways and restarts agree.

    Args:
        key: What decides: `client_key()`, `header_key(name)`, `cookie_key(name)`,
            `query_key(name)`, `path_key()`, or a callable that takes the `RequestInfo` and
            returns bytes. Default: `client_key()`. A request without it (None) gets a random
            backend, by weight.
        rng: Source of randomness for requests without the key. Default: `random.random`.

    Raises:
        ValueError: A `key` that cannot be called, or one of the functions above uncalled.

    Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998);
    weights by Schindelhauer and Schomaker (2005).
    """

    __slots__ = ("_key", "_places", "_seen", "_wheel")

    def __init__(self, key: HashKey | None = None, *, rng: random.Random | None = None) -> None:
        if key is not None and not callable(key):
            raise ValueError(f"key must be callable, like header_key('x-user'), got {key!r}")
        if key in _KEY_FUNCTIONS:
            name = getattr(key, "__name__", "")
            raise ValueError(f"key must be what {name} returns; did you mean {name}(...)?")
        self._key = client_key() if key is None else key
        self._wheel = _Wheel(rng)
        self._seen: Sequence[BackendState] | None = None
        #: (state, weight, the hash of its id so far)
        self._places: list[tuple[BackendState, float, blake2b]] = []

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend that the request's key belongs to."""
        key = self._key(request)
        if key is None:
            position = self._wheel.spin(candidates)
            return self._wheel.members[position]
        if candidates is not self._seen:
            self._load(candidates)
        best, highest = self._places[0][0], 0.0
        log, from_bytes = math.log, int.from_bytes
        for state, weight, hasher in self._places:
            hasher = hasher.copy()
            hasher.update(key)
            # 52 bits and a half: the most for which a float is never rounded up to 1, whose
            # logarithm is 0.
            point = ((from_bytes(hasher.digest(), "big") >> 12) + 0.5) / 4503599627370496
            score = weight / -log(point)
            if score > highest:
                best, highest = state, score
        return best

    def _load(self, candidates: Sequence[BackendState]) -> None:
        members, weights = _shares(candidates)
        self._places = [
            # Ids are printable, so the zero byte ends them and no two inputs are the same.
            (state, weight, blake2b(state.id.encode() + b"\0", digest_size=8))
            for state, weight in zip(members, weights, strict=True)
        ]
        self._seen = _memory_key(candidates)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key={self._key!r})"
