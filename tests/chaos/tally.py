"""What a load has come to: problems, delays, and who moved when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .visitors import Outcome, Stay


class Event(NamedTuple):
    """Something that lets the visitors of a replica move: its death, or the end of its drain."""

    replica: str
    time: float


class Moves(NamedTuple):
    """How often visitors moved.

    Attributes:
        due: How often visitors were on a replica when it died.
        made: How often they were answered by another replica than before, or by another run of it.
        undue: How many of these moves nothing had happened for.
    """

    due: int
    made: int
    undue: int


def problems(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How often each thing went wrong."""
    return Counter(each.problem for each in outcomes if each.problem is not None)


def described(found: Counter[str]) -> str:
    """The same in words: `3 (2 no answer, 1 status 502)`."""
    if not found:
        return "0"
    parts = ", ".join(f"{count} {problem}" for problem, count in found.most_common())
    return f"{found.total()} ({parts})"


def begun(
    outcomes: Iterable[Outcome], since: float, until: float = float("inf")
) -> Sequence[Outcome]:
    """The requests that were made in a time."""
    return [each for each in outcomes if since <= each.began < until]


def most_of_one(outcomes: Iterable[Outcome]) -> int:
    """How many of these are one visitor's, who has the most of them."""
    return max(Counter(each.visitor for each in outcomes).values(), default=0)


def longest(outcomes: Iterable[Outcome]) -> float:
    """The longest that a request took."""
    return max((each.ended - each.began for each in outcomes), default=0.0)


def moves(visitors: Iterable[Sequence[Stay]], events: Sequence[Event]) -> Moves:
    """Hold where visitors were against what happened to their replicas."""
    due = made = undue = 0
    for stays in visitors:
        for stay in stays:
            has_reason = any(_is_within(event, stay) for event in events)
            has_moved = stay.left is not None
            due += has_reason
            made += has_moved
            undue += has_moved and not has_reason
    return Moves(due, made, undue)


def _is_within(event: Event, stay: Stay) -> bool:
    left = float("inf") if stay.left is None else stay.left
    return event.replica == stay.replica and stay.since <= event.time <= left
