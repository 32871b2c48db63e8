"""In which order a pool's backends are considered for new sessions."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

from .backend import BackendState, Health, Intent

_LIMIT = attrgetter("backend.max_requests")


class Groups:
    """Those of a pool that may be used, in groups; as it was when it was made.

    Nobody of one group is asked while the one before has somebody. First come those that take new
    sessions, by priority; then those that only keep the ones they have (draining, or of weight 0),
    by priority too: rather them than nobody.

    Args:
        states: The pool's backends.
        panics: Whether everybody is taken for healthy when nobody is.

    Attributes:
        first: The first group; empty if nobody can be used.
        panics: Whether that is so now.
        has_limits: Whether any of the pool's backends has `max_requests`.
    """

    __slots__ = ("_groups", "first", "has_limits", "panics")

    def __init__(self, states: Collection[BackendState], *, panics: bool) -> None:
        # There may be thousands, and this is done after each change: nothing is called for each.
        down, unhealthy = Intent.DOWN, Health.UNHEALTHY
        groups = _groups_of(
            [
                state
                for state in states
                if state.intent is not down and state.health is not unhealthy
            ]
        )
        self.panics = False
        if not groups and panics:
            groups = _groups_of([state for state in states if state.intent is not Intent.DOWN])
            self.panics = bool(groups)
        self._groups = groups
        self.first: tuple[BackendState, ...] = groups[0] if groups else ()
        self.has_limits = any(map(_LIMIT, states))

    def without(self, exclude: Collection[str]) -> tuple[BackendState, ...]:
        """The first group that has anybody besides these: the others of it."""
        for group in self._groups:
            left = tuple(state for state in group if state.id not in exclude)
            if left:
                return left
        return ()

    def __repr__(self) -> str:
        return f"<Groups of {', '.join(str(len(group)) for group in self._groups) or 'nobody'}>"


def _groups_of(usable: list[BackendState]) -> list[tuple[BackendState, ...]]:
    takers: dict[int, list[BackendState]] = {}
    keepers: dict[int, list[BackendState]] = {}
    active = Intent.ACTIVE
    for state in usable:
        backend = state.backend
        groups = takers if state.intent is active and backend.weight > 0 else keepers
        priority = backend.priority
        if priority in groups:
            groups[priority].append(state)
        else:
            groups[priority] = [state]
    return [tuple(found[priority]) for found in (takers, keepers) for priority in sorted(found)]
