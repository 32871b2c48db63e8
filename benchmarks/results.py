"""Figures: what every round gave, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

#: One mapping of subject to value for each round.
Rounds: TypeAlias = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of several subjects, measured in several rounds.

    Args:
        name: What targets call it.
        title: What readers call it.
        unit: Of every value.
        rounds: One mapping of subject to value for each round, all with the same subjects.
        compare: The subject that the others are compared with, if there is one.
    """

    name: str
    title: str
    unit: str
    rounds: Rounds
    compare: str | None = None

    @property
    def subjects(self) -> list[str]:
        """Who was measured."""
        return list(self.rounds[0])

    def values(self, subject: str) -> list[float]:
        """What a subject needed, round by round."""
        return [values[subject] for values in self.rounds]

    def median(self, subject: str) -> float:
        """What a subject needed."""
        return median(self.values(subject))

    def ratio(self, subject: str, reference: str) -> float:
        """How many times as much as another a subject needed.

        The median of the ratios of each round: two figures of one round were measured within
        seconds of each other, so what slows down the machine for a while slows down both.
        """
        return median(values[subject] / values[reference] for values in self.rounds)


def side_by_side(parts: Sequence[Rounds]) -> Rounds:
    """Put measurements of different subjects into the same rounds."""
    return [
        {subject: value for values in turn for subject, value in values.items()}
        for turn in zip(*parts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: at most so many times what the reference needs; without one, at most so much."""

    series: str
    subject: str
    reference: str | None
    at_most: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    target: Target
    series: Series
    measured: float

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.target.at_most


def judge(targets: Sequence[Target], series: Sequence[Series]) -> list[Verdict]:
    """Hold the targets against the figures; those of what was not measured are left out."""
    by_name = {one.name: one for one in series}
    verdicts = []
    for target in targets:
        one = by_name.get(target.series)
        if one is None or not {target.subject, target.reference or target.subject} <= {
            *one.subjects
        }:
            continue
        if target.reference is None:
            measured = one.median(target.subject)
        else:
            measured = one.ratio(target.subject, target.reference)
        verdicts.append(Verdict(target, one, measured))
    return verdicts
