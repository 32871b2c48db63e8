"""The same backend for the same key, with nothing remembered."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Sequence, Set
from hashlib import blake2b
from struct import unpack

from ..alike import Alike
from ..backend import BackendState
from ..hash_keys import HashKey, client_key, cookie_key, header_key, path_key, query_key
from ..request import RequestInfo
from .candidates import memory_key, shares
from .chance import Wheel

_KEY_FUNCTIONS: tuple[object, ...] = (client_key, cookie_key, header_key, path_key, query_key)


def _places(digests: bytes) -> list[float]:
    """Places on a circle of circumference 1, eight by each digest."""
    return [number * 2.0**-64 for number in unpack(f"<{len(digests) // 8}Q", digests)]


class _Circle:
    """Backends at places on a circle that their ids decide.

    Who is no candidate now is passed over and stays where it is: a request that excludes some, or
    backends that are full now and then, cost no new circle.
    """

    __slots__ = ("_candidates", "_heaviest", "_owners", "_placed", "_places")

    #: An id has eight places by each of these. More of them make the shares more even, and the
    #: circle longer; to change them moves every visitor of every user.
    DIGESTS = (b"1", b"2")
    #: The circle is made anew when there are so many times more backends on it than candidates.
    SLACK = 4

    def __init__(self) -> None:
        #: In order.
        self._places: list[float] = []
        #: Whose they are. By id: a backend may leave and come back as another object.
        self._owners: dict[float, str] = {}
        self._placed: set[str] = set()
        self._candidates: dict[str, BackendState] = {}
        self._heaviest: float = 0

    def admit(self, candidates: Sequence[BackendState]) -> None:
        """From now on these, and nobody else, are found."""
        members, weights = shares(candidates)
        self._heaviest = max(weights)
        self._candidates = {state.backend.id: state for state in members}
        if len(self._placed) > self.SLACK * len(members):
            self._places, self._owners, self._placed = [], {}, set()
        self._place(self._candidates.keys() - self._placed)

    def _place(self, ids: Set[str]) -> None:
        if not ids:
            return
        # Personalised, so that no key is hashed to the places of an id.
        digests = b"".join(
            [blake2b(id.encode(), person=person).digest() for id in ids for person in self.DIGESTS]
        )
        places = _places(digests)
        each = len(places) // len(ids)
        self._owners.update(zip(places, [id for id in ids for _ in range(each)], strict=True))
        self._placed |= ids
        self._places += places
        self._places.sort()  # quick, as most of them are in order already

    def find(self, key: bytes) -> BackendState:
        """Who has the place that is the least way behind one of the key's eight, by weight."""
        places, owners, candidates = self._places, self._owners, self._candidates
        best: BackendState | None = None
        least = reach = math.inf
        for start in _places(blake2b(key).digest()):
            index = bisect(places, start) - 1
            end = index - len(places)  # once round: a negative index goes on from the top
            while index > end:
                place = places[index]
                way = (start - place) % 1.0
                if way > reach:
                    break  # even the heaviest would be farther than the best so far
                state = candidates.get(owners[place])
                if state is not None:
                    # Where a candidate of weight 0 is on the circle, they all weigh that.
                    cost = way / (state.weight or 1)
                    if cost < least:
                        best, least, reach = state, cost, cost * self._heaviest
                index -= 1
        assert best is not None
        return best


class ConsistentHash(Alike):
    """The same backend for the same key, with nothing remembered: multi-probe consistent hashing.

    Backends and keys are hashed to places on a circle, and a key belongs to the backend with the
    shortest way to it, divided by the weight. That way depends on the two alone, hence, exactly:
    a backend that leaves gives up its own visitors only, one that joins or grows takes visitors
    only for itself, and nobody else moves; the order of the candidates and the past have no
    influence, so gateways and restarts agree. With 16 places for a backend and 8 for a key, a
    backend's share of many keys is within some 6 % (one standard deviation) of what its weight
    says, for any number of backends; nginx's 160 places and one probe come to 8 %, HAProxy's 16
    to 25 %.

    Args:
        key: What decides: `client_key()`, `header_key(name)`, `cookie_key(name)`,
            `query_key(name)`, `path_key()`, or a callable that takes the `RequestInfo` and
            returns bytes. Default: `client_key()`. A request without it (None) gets a random
            backend, by weight.
        rng: Source of randomness for requests without the key. Default: `random.random`.

    Raises:
        ValueError: A `key` that cannot be called, or one of the functions above uncalled.

    Source: Appleton and O'Reilly, "Multi-probe consistent hashing" (2015); the exact properties
    are those of rendezvous hashing, Thaler and Ravishankar (1998).
    """

    __slots__ = ("_circle", "_key", "_seen", "_wheel")

    def __init__(self, key: HashKey | None = None, *, rng: random.Random | None = None) -> None:
        if key is not None and not callable(key):
            raise ValueError(f"key must be callable, like header_key('x-user'), got {key!r}")
        if key in _KEY_FUNCTIONS:
            name = getattr(key, "__name__", "")
            raise ValueError(f"key must be what {name} returns; did you mean {name}(...)?")
        self._key = client_key() if key is None else key
        self._wheel = Wheel(rng)
        self._circle = _Circle()
        self._seen: Sequence[BackendState] | None = None

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend that the request's key belongs to."""
        key = self._key(request)
        if key is None:
            position = self._wheel.spin(candidates)
            return self._wheel.members[position]
        if candidates is not self._seen:
            self.prepare(candidates)
        return self._circle.find(key)

    def prepare(self, candidates: Sequence[BackendState]) -> None:
        """Put those on the circle who are not there yet. Of thousands, the first time is long."""
        self._circle.admit(candidates)
        self._seen = memory_key(candidates)

    def _options(self) -> tuple[object, ...]:
        return (self._key, self._wheel.random)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key={self._key!r})"
