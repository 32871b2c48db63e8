"""What a test finds in the log, whatever level other tests have left behind."""

from __future__ import annotations

import logging

import pytest


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages that an operator should look at."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
