"""What the server accepts: names, labels and annotations of anything, Services, EndpointSlices.

Of other kinds only the metadata is looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from .errors import (
    KubernetesError,
    Problem,
    bad_request,
    duplicate,
    forbidden_field,
    invalid_value,
    required,
    unsupported,
)
from .resources import ENDPOINT_SLICES, SERVICES, Object, Resource

_LABEL_1123 = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME_RULES = {
    "label1035": (
        63,
        re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?"),
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with "
        "an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or "
        "'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
    ),
    "label1123": (
        63,
        re.compile(_LABEL_1123),
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', "
        "regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
    ),
    "subdomain": (
        253,
        re.compile(rf"{_LABEL_1123}(?:\.{_LABEL_1123})*"),
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
        "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex "
        "used for validation is "
        r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    ),
}
_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PART_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character"
)
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_MAX_ANNOTATIONS = 256 * 1024
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_FAMILIES = ("IPv4", "IPv6")
_ADDRESS_TYPES = ("FQDN", *_FAMILIES)
_MAX_ENDPOINTS = 1000
_MAX_SLICE_PORTS = 100


def decode(resource: Resource, obj: Any) -> Object:
    """Check what Go's types decide before anything else does.

    Raises:
        KubernetesError: 400; it is no object of this kind.
    """
    if not isinstance(obj, dict):
        raise _undecodable(resource, "object", obj, "")
    for key, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if obj.get(key, wanted) != wanted:
            what = "API version" if key == "apiVersion" else "kind"
            raise bad_request(
                f"the {what} in the data ({obj[key]}) does not match the expected {what} ({wanted})"
            )
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        raise _undecodable(resource, "ObjectMeta", metadata, "metadata")
    for key in ("labels", "annotations"):
        values = metadata.get(key) or {}
        if not isinstance(values, dict):
            raise _undecodable(resource, "map[string]string", values, f"metadata.{key}")
        for value in values.values():
            if not isinstance(value, str):
                raise _undecodable(resource, "string", value, f"metadata.{key}")
    for key in ("finalizers", "ownerReferences"):
        if not isinstance(metadata.get(key), list | None):
            raise _undecodable(resource, "array", metadata[key], f"metadata.{key}")
    for key in ("name", "namespace", "generateName", "resourceVersion", "uid"):
        if not isinstance(metadata.get(key), str | None):
            raise _undecodable(resource, "string", metadata[key], f"metadata.{key}")
    return obj


def _undecodable(resource: Resource, wanted: str, value: Any, field: str) -> KubernetesError:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    found = names.get(type(value), "object" if isinstance(value, dict) else "null")
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
        f"json: cannot unmarshal {found} into Go struct field {resource.kind}.{field} "
        f"of type {wanted}"
    )


def problems_of(resource: Resource, obj: Object, old: Object | None) -> list[Problem]:
    """What is wrong with a complete object, and with putting it in the place of an old one."""
    problems = list(_metadata_problems(resource, obj["metadata"]))
    try:
        if resource is SERVICES:
            problems += _service_problems(obj["spec"], old)
        elif resource is ENDPOINT_SLICES:
            problems += _slice_problems(obj, old)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}: {exc}"
        ) from None
    return problems


def _metadata_problems(resource: Resource, metadata: dict[str, Any]) -> Iterator[Problem]:
    name = metadata["name"]
    longest, pattern, rule = _NAME_RULES[resource.name_rule]
    if pattern.fullmatch(name) is None:
        yield invalid_value("metadata.name", name, rule)
    elif len(name) > longest:
        yield invalid_value("metadata.name", name, f"must be no more than {longest} characters")
    for key, value in (metadata.get("labels") or {}).items():
        yield from _key_problems("metadata.labels", key)
        if value and (_PART.fullmatch(value) is None or len(value) > 63):
            rule = f"a valid label must be an empty string or {_PART_RULE}"
            yield invalid_value("metadata.labels", value, rule)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _key_problems("metadata.annotations", key.lower())
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _MAX_ANNOTATIONS:
        message = f"Too long: may not be more than {_MAX_ANNOTATIONS} bytes"
        yield Problem("metadata.annotations", "FieldValueTooLong", message)


def _key_problems(field: str, key: str) -> Iterator[Problem]:
    prefix, slash, name = key.rpartition("/")
    if _PART.fullmatch(name) is None or len(name) > 63:
        yield invalid_value(field, key, f"name part {_PART_RULE}")
    if slash and _NAME_RULES["subdomain"][1].fullmatch(prefix) is None:
        yield invalid_value(field, key, f"prefix part {_NAME_RULES['subdomain'][2]}")


# Services


def _service_problems(spec: dict[str, Any], old: Object | None) -> Iterator[Problem]:
    kind, ports = spec["type"], spec.get("ports") or []
    if kind not in _SERVICE_TYPES:
        yield unsupported("spec.type", kind, _SERVICE_TYPES)
    for number, family in enumerate(spec.get("ipFamilies") or []):
        if family not in _FAMILIES:
            yield unsupported(f"spec.ipFamilies[{number}]", family, _FAMILIES)
    if kind == "ExternalName" and not spec.get("externalName"):
        yield required("spec.externalName")
    if kind != "ExternalName" and spec.get("clusterIP") != "None" and not ports:
        yield required("spec.ports")
    names: set[str] = set()
    places: set[tuple[object, object]] = set()
    for number, port in enumerate(ports):
        at = f"spec.ports[{number}]"
        yield from _port_problems(at, port, name_required=len(ports) > 1)
        if port.get("name") and port["name"] in names:
            yield duplicate(f"{at}.name", port["name"])
        names.add(port.get("name", ""))
        place = (port.get("port"), port.get("protocol"))
        if place in places:
            yield duplicate(at, str(port.get("port")))
        places.add(place)
    if old is not None and kind == old["spec"]["type"] != "ExternalName":
        before, after = old["spec"].get("clusterIP"), spec.get("clusterIP")
        if before != after:
            yield invalid_value("spec.clusterIPs[0]", after, "may not change once set")


def _port_problems(at: str, port: dict[str, Any], *, name_required: bool) -> Iterator[Problem]:
    if not port.get("name"):
        if name_required:
            yield required(f"{at}.name")
    elif re.fullmatch(_LABEL_1123, port["name"]) is None:
        yield invalid_value(f"{at}.name", port["name"], _NAME_RULES["label1123"][2])
    if not _is_port(port.get("port")):
        yield invalid_value(f"{at}.port", port.get("port", 0), _PORT_RANGE)
    if port["protocol"] not in _PROTOCOLS:
        yield unsupported(f"{at}.protocol", port["protocol"], _PROTOCOLS)
    target = port.get("targetPort")
    if isinstance(target, str):
        if _PORT_NAME.fullmatch(target) is None:
            rule = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
            yield invalid_value(f"{at}.targetPort", target, rule)
    elif target is not None and not _is_port(target):
        yield invalid_value(f"{at}.targetPort", target, _PORT_RANGE)


def _is_port(value: object) -> bool:
    return type(value) is int and 1 <= value <= 65535


# EndpointSlices


def _slice_problems(obj: Object, old: Object | None) -> Iterator[Problem]:
    kind = obj.get("addressType") or ""
    if not kind:
        yield required("addressType")
    elif kind not in _ADDRESS_TYPES:
        yield unsupported("addressType", kind, _ADDRESS_TYPES)
    if old is not None and old.get("addressType") != kind:
        yield invalid_value("addressType", kind, "field is immutable")
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    for field, items, most in (
        ("endpoints", endpoints, _MAX_ENDPOINTS),
        ("ports", ports, _MAX_SLICE_PORTS),
    ):
        if len(items) > most:
            message = f"Too many: {len(items)}: must have at most {most} items"
            yield Problem(field, "FieldValueTooMany", message)
    for number, endpoint in enumerate(endpoints):
        yield from _endpoint_problems(f"endpoints[{number}]", endpoint, kind)
    names: set[str] = set()
    for number, port in enumerate(ports):
        if port["name"] in names:
            yield duplicate(f"ports[{number}].name", port["name"])
        names.add(port["name"])
        if port["protocol"] not in _PROTOCOLS:
            yield unsupported(f"ports[{number}].protocol", port["protocol"], _PROTOCOLS)
        if port.get("port") is not None and not _is_port(port["port"]):
            yield invalid_value(f"ports[{number}].port", port["port"], _PORT_RANGE)


def _endpoint_problems(at: str, endpoint: dict[str, Any], kind: str) -> Iterator[Problem]:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield required(f"{at}.addresses", "must contain at least 1 address")
    for number, address in enumerate(addresses):
        if not _is_address(address, kind):
            rule = "must be a valid IP address" if kind != "FQDN" else "must be a valid hostname"
            yield invalid_value(f"{at}.addresses[{number}]", address, rule)
    for name, value in (endpoint.get("conditions") or {}).items():
        if not isinstance(value, bool | None):
            raise TypeError(f"json: cannot unmarshal {value!r} into {name} of type bool")
    if len((endpoint.get("hints") or {}).get("forZones") or []) > 8:
        yield forbidden_field(f"{at}.hints.forZones", "must have at most 8 items")


def _is_address(address: str, kind: str) -> bool:
    if kind == "FQDN":
        return _NAME_RULES["subdomain"][1].fullmatch(address) is not None
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return kind not in _FAMILIES or kind == f"IPv{version}"
