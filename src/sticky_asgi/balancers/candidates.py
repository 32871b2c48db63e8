"""What all policies do with the candidates they are given."""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import BackendState


def shares(candidates: Sequence[BackendState]) -> tuple[list[BackendState], list[float]]:
    """The candidates that may be picked, and their weights, none of which is 0."""
    weights = [state.weight for state in candidates]
    if all(weights):
        return list(candidates), weights
    # Weight 0 means no new sessions, unless nothing else is left: then all count alike.
    if not any(weights):
        return list(candidates), [1] * len(weights)
    members = [state for state in candidates if state.weight]
    return members, [state.weight for state in members]


def memory_key(candidates: Sequence[BackendState]) -> Sequence[BackendState] | None:
    """What to compare the next candidates with. Only a tuple is sure to stay what it was."""
    return candidates if isinstance(candidates, tuple) else None
