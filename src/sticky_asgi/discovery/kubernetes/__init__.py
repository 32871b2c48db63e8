"""Pools that follow a Kubernetes Service, or every annotated Service of a namespace."""

from .annotations import RouteHint
from .namespace import DiscoveredPool, KubernetesNamespace
from .service import KubernetesService

__all__ = ["DiscoveredPool", "KubernetesNamespace", "KubernetesService", "RouteHint"]
