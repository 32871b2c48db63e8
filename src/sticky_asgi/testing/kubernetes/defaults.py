"""What the server fills in when a manifest leaves it out."""

from __future__ import annotations

from typing import Any

from .resources import ENDPOINT_SLICES, NAMESPACES, SERVICES, Object, Resource

#: Where a cluster's Services have their addresses, unless it is told otherwise.
_CLUSTER_NETWORK = "10.96"


def fill_in(resource: Resource, obj: Object, old: Object | None, serial: int) -> None:
    """Complete an object in place.

    Args:
        resource: Its kind.
        obj: The object, which is the caller's own.
        old: What it replaces; None if it is new.
        serial: A number that no other object was given, for addresses.
    """
    if resource is SERVICES:
        _service(obj, old, serial)
    elif resource is ENDPOINT_SLICES:
        _endpoint_slice(obj)
    elif resource is NAMESPACES:
        obj.setdefault("spec", {"finalizers": ["kubernetes"]})
        obj.setdefault("status", {"phase": "Active"})
        labels = obj["metadata"].setdefault("labels", {})
        labels.setdefault("kubernetes.io/metadata.name", obj["metadata"]["name"])


def _service(obj: Object, old: Object | None, serial: int) -> None:
    spec = obj.setdefault("spec", {})
    if not isinstance(spec, dict):
        return
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in _items(spec, "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] != "ExternalName":
        _addresses(spec, old, serial)
    obj.setdefault("status", {"loadBalancer": {}})


def _addresses(spec: dict[str, Any], old: Object | None, serial: int) -> None:
    families = spec.setdefault("ipFamilies", ["IPv4"])
    if not isinstance(families, list):
        return
    spec.setdefault("ipFamilyPolicy", "SingleStack" if len(families) == 1 else "RequireDualStack")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if old is not None and "clusterIP" in old.get("spec", {}):
        # Whoever sends a manifest anew, does not know what address it was given.
        spec.setdefault("clusterIP", old["spec"]["clusterIP"])
        if spec["clusterIP"] == old["spec"]["clusterIP"]:
            spec.setdefault("clusterIPs", old["spec"].get("clusterIPs"))
    if spec.get("clusterIP") in (None, ""):
        spec["clusterIP"] = _address(families[0] if families else "IPv4", serial)
        spec["clusterIPs"] = [
            spec["clusterIP"],
            *(_address(family, serial) for family in families[1:]),
        ]
    spec.setdefault("clusterIPs", [spec["clusterIP"]])


def _address(family: str, serial: int) -> str:
    high, low = divmod(serial % 65_000, 250)
    if family == "IPv6":
        return f"fd00:10:96::{high:x}:{low + 1:x}"
    return f"{_CLUSTER_NETWORK}.{high}.{low + 1}"


def _endpoint_slice(obj: Object) -> None:
    for port in _items(obj, "ports"):
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")
    for key in ("endpoints", "ports"):
        obj.setdefault(key, None)


def _items(parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = parent.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
