"""What is promised, what was found, and the table of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.table import number, table


@dataclass(frozen=True, slots=True)
class Check:
    """A promise and what was found.

    Attributes:
        what: What was counted or measured.
        bound: What is promised of it, in words.
        found: What it was, in words.
        holds: Whether the promise is kept.
    """

    what: str
    bound: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """A case that was run, and its checks."""

    case: str
    checks: Sequence[Check]

    @property
    def holds(self) -> bool:
        """Whether every promise is kept."""
        return all(check.holds for check in self.checks)


def none_of(what: str, count: int, described: str | None = None) -> Check:
    """There must be none."""
    return Check(what, "0", str(count) if described is None else described, count == 0)


def at_most(what: str, bound: float, found: float, unit: str = "") -> Check:
    """It must not be more."""
    return Check(what, f"≤ {number(bound)}{unit}", f"{number(found)}{unit}", found <= bound)


def at_least(what: str, bound: int, found: int) -> Check:
    """It must not be less: nothing was tested otherwise."""
    return Check(what, f"≥ {bound:,}", f"{found:,}", found >= bound)


def equal(what: str, bound: int, found: int) -> Check:
    """It must be so many."""
    return Check(what, f"{bound:,}", f"{found:,}", found == bound)


def grown(what: str, before: float, after: float, share: float, unit: str = "") -> Check:
    """It must not have grown by more than this share."""
    bound = f"≤ {number(before)}{unit} + {share:.0%}"
    return Check(what, bound, f"{number(after)}{unit}", after <= before * (1 + share))


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """All checks, each beside what was found and whether it holds."""
    rows = [
        [
            verdict.case if check is verdict.checks[0] else "",
            check.what,
            check.bound,
            check.found,
            "yes" if check.holds else "**no**",
        ]
        for verdict in verdicts
        for check in verdict.checks
    ]
    return table(["case", "what", "bound", "found", "holds"], rows, texts=2)
