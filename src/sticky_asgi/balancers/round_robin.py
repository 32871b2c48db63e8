"""Turns, by weight."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain

from ..alike import Alike
from ..backend import BackendState
from ..request import RequestInfo
from .candidates import memory_key, shares


class _Group:
    """Backends of one weight: in a step of round robin they gain alike, so one sum does for all.

    A member's nginx `current_weight` is `gained` less its debt. The least debt comes first, and
    whoever has had a turn goes to the end of `served`: since all pay alike, both queues stay in
    order by themselves. Nothing is made for each member but a number, as there may be thousands.
    """

    __slots__ = ("debts", "gained", "served", "waiting", "weight")

    def __init__(self, weight: float, debts: list[float]) -> None:
        self.weight = weight
        self.gained: float = 0
        #: By position among the candidates, the members of other groups included.
        self.debts = debts
        #: Positions of members.
        self.waiting: deque[int] = deque()
        self.served: deque[int] = deque()

    def first(self) -> int:
        """Whose turn is next; of those who owe the same, the first in order."""
        if not self.waiting:
            self.waiting, self.served = self.served, self.waiting
        first = self.waiting[0]
        if self.served:
            other, debts = self.served[0], self.debts
            if debts[other] < debts[first] or (debts[other] == debts[first] and other < first):
                return other
        return first

    def pay(self, position: int, price: float) -> None:
        """Whose turn was next has it now."""
        (self.waiting if self.waiting[0] == position else self.served).popleft()
        self.debts[position] += price
        self.served.append(position)


class RoundRobin(Alike):
    """Smooth weighted round robin, as nginx does it: exact weights, spread evenly. The default.

    Weights 5, 1 and 1 give `a a b a c a a`, not `a a a a a b c`. When the candidates change,
    everyone keeps the turns owed to them, so a change favours nobody.

    Pinned traffic counts: a backend that served pinned visitors since its last turn
    (`BackendState.charged`) loses this turn. It never loses two turns in a row, not even where
    it was no candidate meanwhile: neither a burst of pinned requests nor a steady stream of them
    keeps new visitors away from a backend.

    Source: nginx, `ngx_http_upstream_get_peer`.
    """

    __slots__ = ("_groups", "_members", "_seen", "_total")

    def __init__(self) -> None:
        self._seen: Sequence[BackendState] | None = None
        self._members: list[BackendState] = []
        self._groups: list[_Group] = []
        self._total: float = 0

    def pick(self, candidates: Sequence[BackendState], request: RequestInfo) -> BackendState:
        """Pick the backend that is owed the most."""
        if candidates is not self._seen:
            self._save()
            self._load(candidates)
        while True:
            state = self._step()
            if state.excused:
                state.excused = False
            elif state.charged:
                state.charged, state.excused = False, True
                continue  # ends: who has lost a turn is excused the next time round
            return state

    def _step(self) -> BackendState:
        """One turn: everyone gains their weight, the richest pays the sum of it and is chosen."""
        groups = self._groups
        best = groups[0]
        best.gained += best.weight
        position = best.first()
        if len(groups) > 1:
            debts = best.debts
            most = best.gained - debts[position]
            for group in groups[1:]:
                group.gained += group.weight
                other = group.first()
                credit = group.gained - debts[other]
                # Like nginx, the first in order of those who are owed the same.
                if credit > most or (credit == most and other < position):
                    best, most, position = group, credit, other
        best.pay(position, self._total)
        return self._members[position]

    def _save(self) -> None:
        """Leave with each backend what it is owed, in turns: weights may be others next time."""
        members, total = self._members, self._total
        for group in self._groups:
            gained, debts = group.gained, group.debts
            for position in chain(group.waiting, group.served):
                members[position].current_weight = (gained - debts[position]) / total

    def _load(self, candidates: Sequence[BackendState]) -> None:
        members, weights = shares(candidates)
        total = sum(weights)
        owed = [state.current_weight for state in members]
        if min(owed) < -1.0 or max(owed) > 1.0:
            # More than a turn is never owed for long; a backend that was away comes back even.
            owed = [min(max(turns, -1.0), 1.0) for turns in owed]
        debts = [-turns * total for turns in owed]
        groups = {weight: _Group(weight, debts) for weight in dict.fromkeys(weights)}
        queues = {weight: group.waiting for weight, group in groups.items()}
        for position in sorted(range(len(members)), key=debts.__getitem__):
            queues[weights[position]].append(position)
        self._members, self._total, self._groups = members, total, list(groups.values())
        self._seen = memory_key(candidates)

    def _options(self) -> tuple[object, ...]:
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
