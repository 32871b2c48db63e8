"""Turns, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

from ..backend import BackendState
from ..request import RequestInfo
from .candidates import memory_key, shares


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
        members, total = self._members, self._total
        for group in self._groups:
            gained = group.gained
            for debt, position in group.queue:
                members[position].current_weight = (gained - debt) / total

    def _load(self, candidates: Sequence[BackendState]) -> None:
        members, weights = shares(candidates)
        total = sum(weights)
        groups: dict[float, _Group] = {}
        for position, (state, weight) in enumerate(zip(members, weights, strict=True)):
            group = groups.get(weight)
            if group is None:
                group = groups[weight] = _Group(weight)
            turns = state.current_weight
            # More than a turn is never owed for long; a backend that was away comes back even.
            if not -1.0 <= turns <= 1.0:
                turns = 1.0 if turns > 1.0 else -1.0
            group.queue.append((-turns * total if turns else 0, position))
        for group in groups.values():
            heapify(group.queue)
        self._members, self._total, self._groups = members, total, list(groups.values())
        if self._excused:
            self._excused.intersection_update(members)
        self._seen = memory_key(candidates)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
