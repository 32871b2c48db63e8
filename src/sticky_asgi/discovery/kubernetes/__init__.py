"""Pools that follow a Kubernetes Service, or every annotated Service of a namespace."""

from ..found import DiscoveredPool, RouteHint
from .namespace import KubernetesNamespace
from .service import KubernetesService

__all__ = ["DiscoveredPool", "KubernetesNamespace", "KubernetesService", "RouteHint"]
