"""Starts that fail."""

from __future__ import annotations

from starlette.testclient import TestClient
from starlette.types import ASGIApp


def failure_of(app: ASGIApp) -> str:
    """How an application's start fails, as a test client learns it."""
    client = TestClient(app)
    try:
        with client:
            raise AssertionError("it has started")
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    finally:
        # Older test clients leave them to the garbage collector, which complains.
        for stream in (client.stream_send, client.stream_receive):
            stream.send_stream.close()  # type: ignore[attr-defined]
            stream.receive_stream.close()  # type: ignore[attr-defined]
