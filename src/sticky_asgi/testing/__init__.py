"""Doubles for the tests of your own gateway. No other module of the package imports this one.

Most of what such tests need is elsewhere: backends in process (`Backend(app=..., id=...)`) and
Starlette's TestClient need no socket, and `listeners=` shows what the gateway did.
"""

from typing import TYPE_CHECKING, Any

from .clock import VirtualClock
from .kubernetes import FakeKubernetes

if TYPE_CHECKING:
    from .dns import DnsQuery, DnsServer

__all__ = [
    "DnsQuery",
    "DnsServer",
    "FakeKubernetes",
    "VirtualClock",
]


def __getattr__(name: str) -> Any:
    # The others are there without dnspython, too.
    if name in ("DnsQuery", "DnsServer"):
        from . import dns

        return getattr(dns, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
