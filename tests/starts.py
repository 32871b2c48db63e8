"""Starts that fail."""

from __future__ import annotations

import gc
import warnings

from starlette.testclient import TestClient
from starlette.types import ASGIApp


def failure_of(app: ASGIApp) -> str:
    """How an application's start fails, as a test client learns it."""
    with warnings.catch_warnings():
        # Starlette's older test clients then leave their streams to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        said = _start(app)
        gc.collect()
    return said


def _start(app: ASGIApp) -> str:
    try:
        with TestClient(app):
            raise AssertionError("it has started")
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
