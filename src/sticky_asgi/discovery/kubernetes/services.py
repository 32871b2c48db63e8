"""What a Service says, read from the API's JSON (core/v1), and which of its ports is meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...checks import check_type, is_int
from .annotations import Reading, read_annotations

#: What the Gateway API and Traefik make of `appProtocol`.
_SCHEMES = {
    "http": "http",
    "kubernetes.io/ws": "http",
    "https": "https",
    "kubernetes.io/wss": "https",
}


class Unusable(Exception):
    """A Service is not what is wanted. The message does not name it."""


class ServicePort(NamedTuple):
    """A TCP port of a Service.

    Args:
        name: "" where it has none.
        number: The Service's own, which need not be that of its pods.
        app_protocol: What is spoken there, where that is said.
    """

    name: str
    number: int
    app_protocol: str | None = None

    def __str__(self) -> str:
        return f"{self.number} ({self.name})" if self.name else str(self.number)


@dataclass(frozen=True, slots=True)
class Service:
    """A Service.

    Args:
        name: Its name.
        ports: Its TCP ports.
        family: The one of its IP families that counts; None where it names none.
        is_headless: Whether it has no address of its own.
        external_name: The name that it stands for, if it is of that type; "" if that is missing.
        has_client_ip: Whether kube-proxy is to send a client's address to one pod.
        annotations: Its annotations.
        labels: Its labels.
        reading: What its annotations say.
        understood: Its annotations as they are in force: where one has become unreadable, with
            what it said before.
    """

    name: str
    ports: tuple[ServicePort, ...]
    family: str | None
    is_headless: bool
    external_name: str | None
    has_client_ip: bool
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    reading: Reading
    understood: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is different here and does no harm."""
        notes = tuple(map(str, self.reading.notes))
        if not self.has_client_ip:
            return notes
        return (
            *notes,
            "sessionAffinity=ClientIP is not read: it is for kube-proxy, which the gateway's "
            "requests do not pass",
        )


def read_service(item: Mapping[str, Any], before: Service | None = None) -> Service:
    """Read a Service.

    Args:
        item: The object, decoded.
        before: What was read of it before, and is returned if it still holds.

    Raises:
        ValueError: It is not what the API promises.
    """
    try:
        metadata, spec = item["metadata"], item["spec"]
        annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
        family = (spec.get("ipFamilies") or (None,))[0]
        if family not in (None, "IPv4", "IPv6"):
            raise ValueError(f"ipFamilies must be of IPv4 and IPv6, got {family!r}")
        reading, understood = _reading(annotations, labels, before)
        made = Service(
            name=metadata["name"],
            ports=tuple(
                _read_port(port)
                for port in spec.get("ports") or ()
                if (port.get("protocol") or "TCP") == "TCP"
            ),
            family=family,
            is_headless=spec.get("clusterIP") == "None",
            external_name=_external_name(spec),
            has_client_ip=spec.get("sessionAffinity") == "ClientIP",
            annotations=dict(annotations),
            labels=dict(labels),
            reading=reading,
            understood=understood,
        )
    except (AttributeError, IndexError, KeyError, TypeError) as exc:
        raise ValueError(f"{type(exc).__name__}: {exc}") from None
    return before if made == before else made


def _external_name(spec: Mapping[str, Any]) -> str | None:
    if spec.get("type") != "ExternalName":
        return None
    # The API does without only where the type is another. An empty one is said to be no name.
    name = spec.get("externalName") or ""
    check_type("externalName", name, str)
    return str(name)


def _read_port(port: Mapping[str, Any]) -> ServicePort:
    made = ServicePort(port.get("name") or "", port["port"], port.get("appProtocol"))
    check_type("name", made.name, str)
    check_type("appProtocol", made.app_protocol, str, None)
    if not is_int(made.number):
        raise ValueError(f"port must be a number, got {made.number!r}")
    return made


def _reading(
    annotations: Mapping[str, str], labels: Mapping[str, str], before: Service | None
) -> tuple[Reading, Mapping[str, str]]:
    """What the annotations say, and those that it was read from.

    Whoever mistypes an annotation ends nobody's session: until it is mended, what it said before
    holds.
    """
    if not all(isinstance(text, str) for text in (*annotations.values(), *labels.values())):
        raise ValueError("annotations and labels must be texts")
    if before is not None and (before.annotations, before.labels) == (annotations, labels):
        return before.reading, before.understood
    reading = read_annotations(annotations, labels=labels)
    if before is None or not reading.warnings:
        return reading, annotations
    held = {
        warning.key: before.understood[warning.key]
        for warning in reading.warnings
        if not warning.is_heeded and warning.key in annotations and warning.key in before.understood
    }
    understood = {**annotations, **held}
    for key in held:
        # One may have been warned of for another's sake only.
        trial = {**understood, key: annotations[key]}
        if all(warning.key != key for warning in read_annotations(trial, labels=labels).warnings):
            understood = trial
    better = read_annotations(understood, labels=labels)
    if replace(better, warnings=(), notes=()) == replace(reading, warnings=(), notes=()):
        return reading, annotations
    mistakes = tuple(
        replace(warning, message=f"{warning.message}; what it said before holds")
        for warning in reading.warnings
        if understood.get(warning.key, warning.value) != warning.value
    )
    return replace(better, warnings=(*mistakes, *better.warnings)), understood


def choose_port(
    service: Service, wanted: int | str | None, *, any_port: bool = False
) -> ServicePort:
    """The port of a Service that is meant.

    Args:
        service: The Service.
        wanted: Number or name of the Service's port; None: its only one.
        any_port: Whether its only one will do where there is none such.

    Raises:
        Unusable: There is no such port, or more than one.
    """
    for port in service.ports:
        if wanted is not None and wanted in (port.number, port.name):
            return port
    if not service.ports and isinstance(wanted, int):
        # A headless Service may name none: what is asked for is then the pods' own.
        return ServicePort("", wanted)
    if len(service.ports) == 1 and (wanted is None or any_port):
        return service.ports[0]
    there = ", ".join(map(str, service.ports)) or "none"
    if wanted is None:
        raise Unusable(f"port must be given, as one of its TCP ports: {there}")
    hint = "; a number has no quotes" if isinstance(wanted, str) and wanted.isdigit() else ""
    raise Unusable(f"there is no TCP port {wanted!r} among its ports: {there}{hint}")


def scheme_of(service: Service, port: ServicePort) -> tuple[str, str | None]:
    """`http` or `https`, and what is to be said of it to the operator, if anything.

    What the annotations say comes first, then the port's `appProtocol`, then what its number and
    its name make likely, which are Traefik's rules.
    """
    if service.reading.scheme in ("http", "https"):
        return service.reading.scheme, None
    likely = "https" if port.number == 443 or port.name.startswith("https") else "http"
    if port.app_protocol is None:
        return likely, None
    known = _SCHEMES.get(port.app_protocol.lower())
    if known is not None:
        return known, None
    return likely, (
        f"port {port}: appProtocol={port.app_protocol!r} is not spoken to backends, "
        f"{likely} is: HTTP/1.1 and WebSocket are all there is"
    )
