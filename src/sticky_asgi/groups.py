"""In which order a pool's backends are considered for new sessions."""

from __future__ import annotations

from collections.abc import Iterable

from .backend import BackendState, Intent


def groups_of(
    states: Iterable[BackendState], *, ignore_health: bool = False
) -> tuple[tuple[BackendState, ...], ...]:
    """Those that may be used, in groups: nobody of one is asked while the one before has somebody.

    First those that take new sessions, by priority; then those that only keep the ones they have
    (draining, or of weight 0), by priority too: rather them than nobody.

    Args:
        states: The pool's backends.
        ignore_health: Whether to take everybody for healthy.
    """
    if ignore_health:
        usable = [state for state in states if state.intent is not Intent.DOWN]
    else:
        usable = [state for state in states if state.keeps_sessions]
    takers = [s for s in usable if s.intent is Intent.ACTIVE and s.backend.weight > 0]
    keepers = [s for s in usable if not (s.intent is Intent.ACTIVE and s.backend.weight > 0)]
    return (*_by_priority(takers), *_by_priority(keepers))


def _by_priority(states: list[BackendState]) -> Iterable[tuple[BackendState, ...]]:
    by_priority: dict[int, list[BackendState]] = {}
    for state in states:
        by_priority.setdefault(state.backend.priority, []).append(state)
    return [tuple(by_priority[priority]) for priority in sorted(by_priority)]
