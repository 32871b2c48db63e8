"""Manifests as users and controllers write them, for `FakeKubernetes.create`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from .resources import Object


def service(
    name: str,
    *,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | int | None = 80,
    app_protocol: str | None = None,
    type: str = "ClusterIP",
    cluster_ip: str | None = "",
    external_name: str | None = None,
    ip_families: Sequence[str] | None = None,
) -> Object:
    """The manifest of a Service (core/v1).

    Args:
        name: Its name.
        namespace: Its namespace.
        annotations: For what reads them, such as a gateway.
        labels: For what selects by them.
        ports: Port numbers by name; or a single port, which needs none. None for no ports, which
            headless and external Services may have.
        app_protocol: `appProtocol` of each port.
        type: ClusterIP, NodePort, LoadBalancer or ExternalName.
        cluster_ip: "" has the server choose one; None makes the Service headless.
        external_name: The DNS name that it stands for; sets the type.
        ip_families: Such as `["IPv4", "IPv6"]`. Default: the server's, IPv4.

    Returns:
        A manifest to be changed or given to `FakeKubernetes.create`.
    """
    spec: dict[str, Any] = {"type": type}
    if external_name is not None:
        spec |= {"type": "ExternalName", "externalName": external_name}
    else:
        spec["selector"] = {"app": name}
        if cluster_ip != "":
            spec["clusterIP"] = cluster_ip or "None"
    if ports is not None:
        named = {"": ports} if isinstance(ports, int) else ports
        spec["ports"] = [_service_port(*port, app_protocol) for port in named.items()]
    if ip_families is not None:
        spec["ipFamilies"] = list(ip_families)
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _metadata(name, namespace, labels, annotations),
        "spec": spec,
    }


def _service_port(name: str, number: int, app_protocol: str | None) -> Object:
    port: Object = {"name": name} if name else {}
    port |= {"port": number, "protocol": "TCP"}
    if app_protocol is not None:
        port["appProtocol"] = app_protocol
    return port


def endpoint(
    address: str | Sequence[str],
    *,
    pod: str | None = None,
    uid: str | None = None,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    node: str | None = None,
    zone: str | None = None,
    for_zones: Sequence[str] | None = None,
) -> Object:
    """One endpoint of an EndpointSlice.

    Args:
        address: Its address; of several only the first has a meaning.
        pod: The pod behind it; None for an endpoint without `targetRef`.
        uid: The pod's uid. Default: one made from the pod's name.
        ready: The condition; None leaves it out.
        serving: The condition. None, the default, leaves it out, which says as much as `ready`.
        terminating: The condition. None, the default, leaves it out, which means no.
        node: `nodeName`.
        zone: Where it is.
        for_zones: `hints.forZones`: whom it is meant for.
    """
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    made: Object = {
        "addresses": [address] if isinstance(address, str) else list(address),
        "conditions": {key: value for key, value in conditions.items() if value is not None},
    }
    if pod is not None:
        made["targetRef"] = {"kind": "Pod", "name": pod, "uid": uid or f"uid-of-{pod}"}
    if node is not None:
        made["nodeName"] = node
    if zone is not None:
        made["zone"] = zone
    if for_zones is not None:
        made["hints"] = {"forZones": [{"name": name} for name in for_zones]}
    return made


def endpoint_slice(
    service: str,
    endpoints: Sequence[Mapping[str, Any]],
    *,
    ports: Mapping[str, int] | int | None = 80,
    name: str | None = None,
    namespace: str = "default",
    address_type: str | None = None,
    app_protocol: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """The manifest of an EndpointSlice (discovery.k8s.io/v1), as its controller writes it.

    Args:
        service: The name of the Service that it belongs to.
        endpoints: What `endpoint()` makes. Their pods are put into the slice's namespace.
        ports: Port numbers by name, those of the pods; or a single one without a name.
        name: Default: that of the Service with `-1` behind it; a second slice needs another.
        namespace: That of the Service.
        address_type: IPv4, IPv6 or FQDN. Default: what the first address is.
        app_protocol: `appProtocol` of each port.
        labels: More labels than the one that names the Service.
        annotations: Its annotations.
    """
    named = {"": ports} if isinstance(ports, int) else ports or {}
    made = [dict(one) for one in endpoints]
    for one in made:
        if "targetRef" in one:
            one["targetRef"] = {"namespace": namespace} | one["targetRef"]
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": _metadata(
            name or f"{service}-1",
            namespace,
            {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
                **(labels or {}),
            },
            annotations,
        ),
        "addressType": address_type or _address_type(made),
        "endpoints": made,
        "ports": [_slice_port(*port, app_protocol) for port in named.items()],
    }


def _slice_port(name: str, number: int, app_protocol: str | None) -> Object:
    port: Object = {"name": name, "port": number, "protocol": "TCP"}
    if app_protocol is not None:
        port["appProtocol"] = app_protocol
    return port


def _address_type(endpoints: Sequence[Object]) -> str:
    if not endpoints:
        return "IPv4"
    try:
        return f"IPv{ipaddress.ip_address(endpoints[0]['addresses'][0]).version}"
    except ValueError:
        return "FQDN"


def _metadata(
    name: str,
    namespace: str,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
) -> Object:
    metadata: Object = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata
