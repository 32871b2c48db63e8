"""Who comes first, among backends whose figures change with every request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

from ..backend import BackendState
from .candidates import memory_key, shares

#: What backends are compared by; the least comes first.
Figure: TypeAlias = Callable[[BackendState], tuple[float, ...]]


class _Standings:
    """Backends by one figure, in a heap that is put right where it is looked at.

    An entry may say too little: that shows when it comes first, and it is sorted in again. It
    must never say too much, so a backend whose figure has fallen is entered once more.
    """

    __slots__ = ("_entered", "_figure", "_heap", "_places")

    def __init__(self, figure: Figure, members: Sequence[BackendState]) -> None:
        self._figure = figure
        self._places = {state: place for place, state in enumerate(members)}
        self._enter_all()

    def _enter_all(self) -> None:
        #: The figure under which each of them stands in the heap; older entries are void.
        self._entered = {state: self._figure(state) for state in self._places}
        self._heap = [
            (figure, self._places[state], state) for state, figure in self._entered.items()
        ]
        heapify(self._heap)

    def fell(self, state: BackendState) -> None:
        """Look again at a backend whose figure may have fallen."""
        entered = self._entered.get(state)
        if entered is None:
            return  # it is no candidate now
        figure = self._figure(state)
        if figure < entered:
            self._entered[state] = figure
            heappush(self._heap, (figure, self._places[state], state))
            # Void entries far from the top are never met.
            if len(self._heap) > 2 * len(self._places) + 8:
                self._enter_all()

    def first(self) -> BackendState:
        """The backend with the least figure; of equals the first among the candidates."""
        heap, entered = self._heap, self._entered
        while True:
            figure, place, state = heap[0]
            if figure is not entered[state]:
                heappop(heap)
                continue
            now = self._figure(state)
            if now == figure:
                return state
            entered[state] = now
            heapreplace(heap, (now, place, state))


class Ranking:
    """The first of the candidates by each of some figures.

    Exact at any time, as if all of them were compared for every pick, as long as whoever's figure
    falls is noted in `BackendState.noted_in`. In a small pool all of them are compared.

    A tuple that is seen for the first time may never come again: when a request excludes the
    backends it has tried, or some are full now and then. So sorting starts when it comes again,
    and what is sorted is kept until another one does.
    """

    __slots__ = ("_figures", "_met", "_noted", "_sorted", "_standings", "members")

    #: Up to so many backends it costs less to compare them than to keep them sorted.
    FEW = 8

    def __init__(self, *figures: Figure) -> None:
        self._figures = figures
        self._met: Sequence[BackendState] | None = None
        self._sorted: Sequence[BackendState] | None = None
        self._standings: list[_Standings] = []
        self._noted: set[BackendState] = set()
        #: Those of the candidates who may be picked.
        self.members: list[BackendState] = []

    def first(self, candidates: Sequence[BackendState]) -> list[BackendState]:
        """The candidate with the least figure, for each figure."""
        if candidates is not self._met:
            self.members, _ = shares(candidates)
            self._met = memory_key(candidates)
            if candidates is not self._sorted:
                return self._compare()
        if len(self.members) <= self.FEW:
            return self._compare()
        if candidates is not self._sorted:
            self._sort(candidates)
        # One by one: other threads may note more meanwhile.
        while self._noted:
            state = self._noted.pop()
            for standings in self._standings:
                standings.fell(state)
        return [standings.first() for standings in self._standings]

    def _compare(self) -> list[BackendState]:
        return [min(self.members, key=figure) for figure in self._figures]

    def _sort(self, candidates: Sequence[BackendState]) -> None:
        for state in self.members:
            state.noted_in = self._noted
        self._standings = [_Standings(figure, self.members) for figure in self._figures]
        self._sorted = candidates
