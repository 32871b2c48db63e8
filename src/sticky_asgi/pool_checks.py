"""What a pool may be given: whatever cannot be is named, before anything is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .affinity import AnnotatedCookie
from .checks import check_object, check_type, is_amount
from .health import Ejection, HealthCheck
from .limits import Limits
from .retries import Retry
from .snapshot import WatchOptions
from .timeouts import Timeouts
from .tls import TLS
from .websocket_options import WebSocketOptions

if TYPE_CHECKING:
    from .pool import Pool


def check_backends_and_affinity(
    name: str, backends: object, discovery: object, affinity: object
) -> None:
    """Raises ValueError or TypeError for arguments of a `Pool` that do not go together."""
    if not name or not name.isprintable():
        raise ValueError(f"name must be printable and not empty, got {name!r}")
    if (backends is None) == (discovery is None):
        raise ValueError(f"pool {name!r} takes either backends or discovery")
    check_object("discovery", discovery, "watch")
    if not isinstance(affinity, AnnotatedCookie):
        check_object("affinity", affinity, "resolve", "issue")
    elif discovery is None:
        raise ValueError(
            "affinity must be a SignedCookie without discovery: there is nobody to annotate it"
        )


def check_policies(pool: Pool) -> None:
    """Raises ValueError or TypeError for a policy that a pool cannot have."""
    if pool.host not in ("pass", "backend"):
        raise ValueError(f"host must be 'pass' or 'backend', got {pool.host!r}")
    if pool.panic not in ("all", "none"):
        raise ValueError(f"panic must be 'all' or 'none', got {pool.panic!r}")
    if not isinstance(pool.drain_header, bool):
        raise ValueError(f"drain_header must be True or False, got {pool.drain_header!r}")
    slow_start = pool.slow_start
    if slow_start is not None and not (is_amount(slow_start) and slow_start > 0):
        raise ValueError(
            f"slow_start must be a positive number of seconds or None, got {slow_start!r}"
        )
    check_object("balancer", pool.balancer, "pick")
    check_type("watch", pool.watch, WatchOptions)
    check_type("retry", pool.retry, Retry, None)
    check_type("timeouts", pool.timeouts, Timeouts)
    check_type("limits", pool.limits, Limits)
    check_type("tls", pool.tls, TLS, None)
    check_type("websocket", pool.websocket, WebSocketOptions)
    check_type("health_check", pool.health_check, HealthCheck, None)
    check_type("ejection", pool.ejection, Ejection, None)
