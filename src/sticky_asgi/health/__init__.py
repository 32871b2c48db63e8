"""Who of a pool can be used: what checks, failed requests and time make of a backend's health.

Nothing here waits or sends: `probes.py` makes the checks, `call.py` sees requests fail, and the
pool puts in force what is decided here.
"""

from __future__ import annotations

from .check import CheckResult, HealthCheck
from .drain_wish import drain_wish, take_drain_wish
from .ejection import Ejection
from .keeper import NOT_CHECKED, HealthKeeper
from .schedule import Schedule

__all__ = [
    "NOT_CHECKED",
    "CheckResult",
    "Ejection",
    "HealthCheck",
    "HealthKeeper",
    "Schedule",
    "drain_wish",
    "take_drain_wish",
]
