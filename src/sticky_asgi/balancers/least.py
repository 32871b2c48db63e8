"""The least busy, and the quickest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from ..alike import Alike
from ..backend import BackendState
from ..request import RequestInfo
from .ranking import Ranking

#: Numbers the picks. One for all, since a pool may get another balancer while it runs.
_TURNS = count(1)

_NEVER = (math.inf, 0, 0)


def _load(state: BackendState) -> tuple[float, int]:
    # Where a candidate of weight 0 is compared at all, they all are.
    return (state.in_flight / (state.weight or 1), state.turn)


class LeastRequests(Alike):
    """The backend with the fewest requests in flight for its weight; equals take turns.

    For requests of very different length. It counts what this process sent: with several
    gateways or workers each sees its own share only, and `TwoChoices` errs less.

    Source: HAProxy's `balance leastconn`; nginx's `least_conn`, which breaks ties by weight.
    """

    __slots__ = ("_ranking",)

    def __init__(self) -> None:
        self._ranking = Ranking(_load)

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the least busy backend."""
        (state,) = self._ranking.first(candidates)
        state.turn = next(_TURNS)
        return state

    def _options(self) -> tuple[object, ...]:
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _time(state: BackendState) -> tuple[float, int, int]:
    """How long a proven backend is likely to take."""
    if state.latency is None or state.failures:
        return _NEVER
    in_flight = state.in_flight
    weight = state.weight or 1
    return (state.latency * (in_flight + 1) / weight, in_flight, state.turn)


def _burden(state: BackendState) -> tuple[float, int, int]:
    """How many times the slowest latency an unproven backend is likely to take."""
    if state.latency is not None and not state.failures:
        return _NEVER
    burden = state.in_flight + state.failures
    if not burden:
        return (-1, 0, state.turn)  # before everybody else
    return ((burden + 1) / (state.weight or 1), burden, state.turn)


def _quickness(state: BackendState) -> tuple[float]:
    return (-(state.latency or 0),)


class LeastTime(Alike):
    """The backend that is likely to answer first: latency * (in flight + 1) / weight, the least.

    Latency is the moving average of the time to first byte (`BackendState.latency`). A backend
    that has not answered yet comes first while it is idle; with its first requests in flight it
    counts as slow as the slowest candidate, so a cold one is tried but not flooded. So does one
    that failed since its last answer, and each failure counts like a request in flight: a dead
    backend, which is always idle, would attract everybody else. One pick in `PROBE_EVERY` goes to
    the next idle candidate in turn, whatever its latency: else a backend that was slow or failed
    might never get another visitor to show that it has recovered. Equals take turns.

    Source: nginx's `least_time header`, Finagle's Peak EWMA.
    """

    __slots__ = ("_picks", "_probed", "_ranking")

    #: One pick in so many measures a backend anew.
    PROBE_EVERY = 100

    def __init__(self) -> None:
        self._ranking = Ranking(_time, _burden, _quickness)
        self._picks = 0
        self._probed = 0

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend with the least expected time."""
        proven, unproven, slowest = self._ranking.first(candidates)
        state = self._to_probe() or self._sooner(proven, unproven, slowest.latency or 1.0)
        state.turn = next(_TURNS)
        return state

    def _to_probe(self) -> BackendState | None:
        self._picks += 1
        if self._picks % self.PROBE_EVERY:
            return None
        members = self._ranking.members
        self._probed = (self._probed + 1) % len(members)
        state = members[self._probed]
        # Idle ones only: one that hangs is not given a second visitor to find out.
        return None if state.in_flight else state

    @staticmethod
    def _sooner(proven: BackendState, unproven: BackendState, slowest: float) -> BackendState:
        """The better of the best proven one and the best unproven one, where there are such.

        Where nothing was measured yet, any figure does for the slowest: it is the same for all.
        """
        time, in_flight, _ = _time(proven)
        burden, count, _ = _burden(unproven)
        return unproven if (slowest * burden, count) < (time, in_flight) else proven

    def _options(self) -> tuple[object, ...]:
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
