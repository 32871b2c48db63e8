"""Doubles for the tests of your own gateway. No other module of the package imports this one.

Most of what such tests need is elsewhere: backends in process (`Backend(app=..., id=...)`) and
Starlette's TestClient need no socket, and `listeners=` shows what the gateway did.
"""

from .clock import VirtualClock
from .kubernetes import FakeKubernetes

__all__ = [
    "FakeKubernetes",
    "VirtualClock",
]
