"""Sources of backends: pools that find their backends by themselves.

Each source is imported when it is asked for: a gateway that has none pays for none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dns import DNS
    from .file import File
    from .found import DiscoveredPool, RouteHint
    from .kubernetes import KubernetesNamespace, KubernetesService
    from .pools import PoolDiscovery, PoolSource

__all__ = [
    "DNS",
    "DiscoveredPool",
    "File",
    "KubernetesNamespace",
    "KubernetesService",
    "PoolDiscovery",
    "PoolSource",
    "RouteHint",
]

_HOMES = {
    "DNS": ".dns",
    "DiscoveredPool": ".found",
    "File": ".file",
    "KubernetesNamespace": ".kubernetes",
    "KubernetesService": ".kubernetes",
    "PoolDiscovery": ".pools",
    "PoolSource": ".pools",
    "RouteHint": ".found",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
