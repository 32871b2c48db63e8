"""What is going on, for whoever waits for the tables."""

from __future__ import annotations

import sys


def say(what: str, value: float, unit: str) -> None:
    """Report one measurement."""
    sys.stderr.write(f"{what}: {value:.1f} {unit}\n")
