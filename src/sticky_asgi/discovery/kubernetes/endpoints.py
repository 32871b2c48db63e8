"""What an EndpointSlice says, read from the API's JSON (discovery.k8s.io/v1). Pure functions.

What is not needed is not kept: a Service may have thousands of endpoints, and slices come often.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ...backend import Intent
from ...checks import is_int

#: The label that names a slice's Service.
SERVICE_LABEL = "kubernetes.io/service-name"


class Endpoint(NamedTuple):
    """One endpoint of a slice: first what it is, then what changes while it stays the same.

    Args:
        address: Its IP address.
        name: Of its pod, if it is one.
        uid: The same one's.
        node: Where it runs.
        zone: Where that is.
        intent: What its conditions come to.
        hints: Zones that it is meant for; empty: nothing is said.
    """

    address: str
    name: str | None
    uid: str | None
    node: str | None
    zone: str | None
    intent: Intent = Intent.ACTIVE
    hints: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str | None, ...]:
        """What it is, without its conditions and hints."""
        return self[:5]


class Slice(NamedTuple):
    """Some of the endpoints of a Service.

    Args:
        name: The slice's.
        service: The Service's.
        created: When the slice was made, as the API writes it: such texts sort as times do.
        family: `IPv4` or `IPv6`.
        ports: Numbers of its TCP ports by name. The name is "" where there is none.
        endpoints: In the slice's order.
    """

    name: str
    service: str
    created: str
    family: str
    ports: Mapping[str, int]
    endpoints: tuple[Endpoint, ...]


def read_slice(item: Mapping[str, Any], before: Slice | None = None) -> Slice | None:
    """Read an EndpointSlice; None if no backend can be made of it.

    Args:
        item: The object, decoded.
        before: What was read of it before, and is returned if it still holds.

    Raises:
        ValueError: It is not what the API promises.
    """
    try:
        metadata = item["metadata"]
        service = (metadata.get("labels") or {}).get(SERVICE_LABEL)
        # What has a name of the DNS has no address to be sent to; such slices are deprecated.
        if service is None or item["addressType"] not in ("IPv4", "IPv6"):
            return None
        made = Slice(
            name=_text(metadata["name"]),
            service=_text(service),
            created=_text(metadata.get("creationTimestamp") or ""),
            family=item["addressType"],
            ports=_ports(item.get("ports") or ()),
            endpoints=_endpoints(item.get("endpoints") or (), before),
        )
    except (AttributeError, IndexError, KeyError, TypeError) as exc:
        raise ValueError(f"{type(exc).__name__}: {exc}") from None
    return before if made == before else made


def _endpoints(items: Any, before: Slice | None) -> tuple[Endpoint, ...]:
    """The endpoints. Those that are what they were before are the same objects: new ones, however
    short they live, make the garbage collector look more often."""
    made = [read_endpoint(one) for one in items if one["addresses"]]
    known = () if before is None else before.endpoints
    for place, (old, new) in enumerate(zip(known, made, strict=False)):
        if old == new:
            made[place] = old
    return tuple(made)


def _ports(ports: Any) -> dict[str, int]:
    found = {}
    for port in ports:
        number = port.get("port")
        if number is not None and (port.get("protocol") or "TCP") == "TCP":
            if not is_int(number) or not 0 < number < 65536:
                raise ValueError(f"port must be a number from 1 to 65535, got {number!r}")
            found[_text(port.get("name") or "")] = number
    return found


def read_endpoint(item: Mapping[str, Any]) -> Endpoint:
    """Read one endpoint of a slice. Raises ValueError and the like where it is none."""
    target = item.get("targetRef") or {}
    if target.get("kind") not in (None, "", "Pod"):
        # Something else may have a pod's name; it goes by its address.
        target = {}
    hints = item.get("hints")
    zones = hints.get("forZones") if hints else None
    return Endpoint(
        # Further addresses have no meaning, says the API.
        _address(item["addresses"][0]),
        _optional(target.get("name")),
        _optional(target.get("uid")),
        _optional(item.get("nodeName")),
        _optional(item.get("zone")),
        intent_of(item.get("conditions") or {}),
        tuple(_text(zone["name"]) for zone in zones) if zones else (),
    )


def intent_of(conditions: Mapping[str, bool | None]) -> Intent:
    """What the conditions of an endpoint come to.

    A pod that terminates and still serves keeps its visitors and gets no new ones. One that is not
    ready is down. `ready` alone decides of those that do not terminate, so that
    `publishNotReadyAddresses` is honoured.
    """
    ready = conditions.get("ready")
    if conditions.get("terminating"):
        serving = conditions.get("serving")
        if serving is None:
            # The controller that mirrors Endpoints sets `ready` and nothing else.
            serving = ready is not False
        return Intent.DRAINING if serving else Intent.DOWN
    return Intent.DOWN if ready is False else Intent.ACTIVE


@lru_cache(10_000)
def _address(value: str) -> str:
    # A zone of an IPv6 address means something on one machine only.
    if "%" in _text(value):
        raise ValueError(f"must be an address without a zone, got {value!r}")
    ipaddress.ip_address(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"must be a printable text, got {value!r}")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value) or None
