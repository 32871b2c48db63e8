"""Rise and fall: how many checks in a row change a backend's health."""

from __future__ import annotations

from ..backend import Health
from .check import HealthCheck


class Tracker:
    """What the last checks of one backend came to.

    | health    | check  | then                                     |
    |-----------|--------|------------------------------------------|
    | never checked | any | healthy or unhealthy, at once           |
    | unknown   | passed | healthy                                  |
    | unknown, healthy | failed | unhealthy, the `fall`-th in a row |
    | unhealthy | passed | healthy, the `rise`-th in a row          |
    """

    __slots__ = ("_failed", "_is_new", "_passed")

    def __init__(self) -> None:
        self._is_new = True
        self._passed = 0
        self._failed = 0

    @property
    def is_new(self) -> bool:
        """Whether there was no check yet."""
        return self._is_new

    def start_again(self) -> None:
        """Somebody else has judged: what checks have said so far does not count any more."""
        self._is_new = False
        self._passed = self._failed = 0

    def observe(self, passed: bool, health: Health, check: HealthCheck) -> Health:
        """Count a check. Returns what the backend's health is now.

        Args:
            passed: Whether it passed.
            health: The backend's health before.
            check: Has the thresholds.
        """
        is_first, self._is_new = self._is_new, False
        if passed:
            self._passed, self._failed = self._passed + 1, 0
            is_enough = is_first or self._passed >= check.rise
            return Health.HEALTHY if health is not Health.UNHEALTHY or is_enough else health
        self._passed, self._failed = 0, self._failed + 1
        is_enough = is_first or self._failed >= check.fall
        return Health.UNHEALTHY if is_enough else health
