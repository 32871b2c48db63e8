"""The backends of one Service, put together from its slices. No I/O.

Slices come one by one and often, so only the one that has changed is worked through; what has not
changed in it keeps its very `Backend` objects, and so whoever compares can go by identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

from ...backend import Backend, Intent
from ...checks import check_type, is_int
from ...snapshot import Snapshot
from .endpoints import Endpoint, Slice
from .external_name import check_external_name
from .services import Service, ServicePort, Unusable, choose_port, scheme_of

#: What a backend's id is: the name of its pod, the pod's uid, or `address:port`.
Identity: TypeAlias = Literal["pod", "uid", "address"]

_PORT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")

#: Looked up once: five thousand times is half a millisecond.
_ACTIVE = Intent.ACTIVE

#: Of an endpoint that is in two slices, the one that may do more counts.
_RANKS = {Intent.ACTIVE: 0, Intent.DRAINING: 1, Intent.DOWN: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is wanted of a Service.

    Args:
        port: Number or name of its port; None: its only one.
        any_port: Whether the only port of a Service will do where it has none such.
        identity: What a backend's id is.
        zone: Where we run; None: hints are not looked at.
        external_name: Whether a Service may stand for a name of the DNS.

    Raises:
        ValueError: A value that is no such thing, naming it.
        TypeError: A value of another type.
    """

    port: int | str | None = None
    any_port: bool = False
    identity: Identity = "pod"
    zone: str | None = None
    external_name: bool = False

    def __post_init__(self) -> None:
        check_type("port", self.port, int, str, None)
        check_type("zone", self.zone, str, None)
        check_type("external_name", self.external_name, bool)
        is_number = is_int(self.port) and 0 < self.port < 65536
        is_name = isinstance(self.port, str) and _PORT_NAME.fullmatch(self.port)
        if self.port is not None and not (is_number or is_name):
            raise ValueError(f"port must be a port's number or name, got {self.port!r}")
        if self.identity not in ("pod", "uid", "address"):
            raise ValueError(f"identity must be 'pod', 'uid' or 'address', got {self.identity!r}")
        if self.zone == "":
            raise ValueError("zone must be a zone's name or None, got ''")


class _Known:
    """An endpoint, and the backends that it is: one for those near, one for the others."""

    __slots__ = ("distant", "endpoint", "near")

    def __init__(self, endpoint: Endpoint, near: Backend, distant: Backend | None = None) -> None:
        self.endpoint = endpoint
        self.near = near
        self.distant = distant

    def at_a_distance(self) -> Backend:
        """The same backend as one that new sessions go to only if there is none near."""
        if self.distant is None:
            near = self.near
            self.distant = Backend(near.url, id=near.id, priority=1, metadata=near.metadata)
        return self.distant


_ById: TypeAlias = dict[str, _Known]


class _Place(NamedTuple):
    """Where a Service's endpoints are reached: scheme, name of the port in the slices, and its
    number if the slices need not have it."""

    scheme: str
    port: str
    default: int | None


@dataclass(frozen=True, slots=True)
class _Worked:
    """A slice that has been worked through; and what it comes to if nobody is in another, too."""

    source: Slice
    place: _Place
    known: _ById
    backends: tuple[Backend, ...]
    intents: Mapping[str, Intent]


class ServiceBackends:
    """What is known of one Service and of its slices.

    Args:
        choice: What is wanted of it.

    Attributes:
        service: The Service; None while there is none.
        slices: Its slices, by name.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.service: Service | None = None
        self.slices: dict[str, Slice] = {}
        self._worked: dict[str, _Worked] = {}
        self._outside: Backend | None = None

    def remarks(self) -> tuple[str, ...]:
        """What is to be said of the Service to the operator: the same as long as it holds."""
        service = self.service
        if service is None:
            return ()
        remarks = [str(warning) for warning in service.reading.warnings]
        try:
            port = self._port(service)
        except Unusable:
            return tuple(remarks)
        more = scheme_of(service, port)[1], self._why_none(service)
        return (*remarks, *(remark for remark in more if remark is not None))

    def _why_none(self, service: Service) -> str | None:
        """Why none of its endpoints becomes a backend, if that is so."""
        parts = [part for part in self.slices.values() if part.endpoints]
        if service.external_name is not None or not parts:
            return None
        parts = [part for part in parts if service.family in (None, part.family)]
        if not parts:
            return f"none of its endpoints becomes a backend: none is {service.family}"
        place = self._place(service)
        if any(_number(part, place) is not None for part in parts):
            return None
        if any(part.known for part in self._parts(service)):
            return None  # Those who were known before serve on.
        name = f"the name {place.port!r}" if place.port else "no name"
        return f"none of its endpoints becomes a backend: no port in their slices has {name}"

    def steps(self) -> Iterator[None]:
        """Work through the slices that have changed, one at each step.

        A thousand new backends are some work. Whoever has others to serve lets them have a turn
        between the steps; `snapshot` does what is left.

        Raises:
            Unusable: As `snapshot` does.
        """
        if self.service is None or self.service.external_name is not None:
            return
        place = self._place(self.service)
        for part in list(self.slices.values()):
            if self._needs_work(part, place):
                self._work(part, place)
                yield

    def snapshot(self) -> Snapshot:
        """What there is now; without a Service, no backends.

        Raises:
            Unusable: The Service is not what is wanted: its port is missing, for one.
        """
        service = self.service
        if service is None:
            return Snapshot(backends=())
        affinity = service.reading.affinity
        if service.external_name is not None:
            backend = self._external(service, service.external_name)
            return Snapshot(backends=(backend,), affinity=affinity)
        parts = self._parts(service)
        known = _join(parts)
        zone = self.choice.zone
        if zone is not None and _hints_apply(known, zone):
            backends = _by_distance(known, zone)
        elif len(known) == sum(len(part.known) for part in parts):
            # As mostly: then there is no need to look at thousands that have not changed.
            backends = tuple(chain.from_iterable(part.backends for part in parts))
            intents = {id: each for part in parts for id, each in part.intents.items()}
            return Snapshot(backends=backends, intents=intents, affinity=affinity)
        else:
            backends = _nearby(known)
        return Snapshot(backends=backends, intents=_intents(known), affinity=affinity)

    def _port(self, service: Service) -> ServicePort:
        return choose_port(service, self.choice.port, any_port=self.choice.any_port)

    def _place(self, service: Service) -> _Place:
        port = self._port(service)
        default = None if service.ports else port.number
        return _Place(scheme_of(service, port)[0], port.name, default)

    def _external(self, service: Service, name: str) -> Backend:
        if not self.choice.external_name:
            raise Unusable("it is an ExternalName, which only external_name=True allows")
        port = self._port(service)
        scheme = scheme_of(service, port)[0]
        try:
            backend = Backend(f"{scheme}://{check_external_name(name)}:{port.number}")
        except ValueError as exc:
            raise Unusable(str(exc)) from None
        if self._outside is None or self._outside.url != backend.url:
            self._outside = backend
        return self._outside

    def _parts(self, service: Service) -> list[_Worked]:
        """The slices that count, worked through, in an order that depends on nothing else."""
        place = self._place(service)
        parts: list[_Worked] = []
        worked: dict[str, _Worked] = {}
        for part in sorted(self.slices.values(), key=lambda part: (part.created, part.name)):
            if self._needs_work(part, place):
                self._work(part, place)
            worked[part.name] = self._worked[part.name]
            if service.family in (None, part.family):
                parts.append(worked[part.name])
        self._worked = worked
        return parts

    def _needs_work(self, part: Slice, place: _Place) -> bool:
        done = self._worked.get(part.name)
        return done is None or done.source is not part or done.place != place

    def _work(self, part: Slice, place: _Place) -> None:
        done = self._worked.get(part.name)
        before = {} if done is None else done.known
        known: _ById = {}
        number = _number(part, place)
        if number is None:
            # It may be that only some slices have the port: pods need not agree what its name
            # means. Or a Service has given it another name, and its slices follow in a moment.
            known = _still_there(part.endpoints, before)
        for endpoint in part.endpoints if number is not None else ():
            host = f"[{endpoint.address}]" if part.family == "IPv6" else endpoint.address
            at = f"{host}:{number}"
            id = self._id(endpoint) or at
            one = _known(endpoint, before.get(id), id, f"{place.scheme}://{at}")
            _merge(known, {id: one})
        self._worked[part.name] = _Worked(part, place, known, _nearby(known), _intents(known))

    def _id(self, endpoint: Endpoint) -> str | None:
        if self.choice.identity == "address":
            return None
        return endpoint.name if self.choice.identity == "pod" else endpoint.uid


def _number(part: Slice, place: _Place) -> int | None:
    """The port that a slice's endpoints are asked at; None: they have none."""
    return part.ports.get(place.port, place.default)


def _known(endpoint: Endpoint, before: _Known | None, id: str, url: str) -> _Known:
    if before is not None and before.near.url == url:
        if before.endpoint == endpoint:
            return before
        if before.endpoint.place == endpoint.place:
            return _Known(endpoint, before.near, before.distant)
    about = {
        "pod": endpoint.name,
        "uid": endpoint.uid,
        "node": endpoint.node,
        "zone": endpoint.zone,
    }
    metadata = {key: value for key, value in about.items() if value is not None}
    return _Known(endpoint, Backend(url, id=id, metadata=metadata))


def _still_there(endpoints: Iterable[Endpoint], before: _ById) -> _ById:
    """Those that were known and are where they were, with what is said of them now."""
    ids = {one.endpoint.place: id for id, one in before.items()}
    found = [(ids[one.place], one) for one in endpoints if one.place in ids]
    return {id: _Known(one, before[id].near, before[id].distant) for id, one in found}


def _merge(joined: _ById, more: _ById) -> None:
    """Add endpoints; of two with one id the one that may do more counts."""
    if joined.keys().isdisjoint(more):
        joined.update(more)
        return
    for id, one in more.items():
        other = joined.get(id)
        if other is None or _RANKS[one.endpoint.intent] < _RANKS[other.endpoint.intent]:
            joined[id] = one


def _join(parts: Iterable[_Worked]) -> _ById:
    """Every endpoint once."""
    joined: _ById = {}
    for part in parts:
        _merge(joined, part.known)
    return joined


def _intents(known: _ById) -> dict[str, Intent]:
    return {
        id: one.endpoint.intent for id, one in known.items() if one.endpoint.intent is not _ACTIVE
    }


def _nearby(known: _ById) -> tuple[Backend, ...]:
    return tuple([one.near for one in known.values()])


def _by_distance(known: _ById, zone: str) -> tuple[Backend, ...]:
    """The backends; new sessions go to those that are meant for our zone."""
    return tuple(
        [
            one.near
            if zone in one.endpoint.hints or one.endpoint.intent is not _ACTIVE
            else one.at_a_distance()
            for one in known.values()
        ]
    )


def _hints_apply(known: _ById, zone: str) -> bool:
    """Whether everybody who is ready has a hint, and somebody's is our zone: kube-proxy's rule."""
    ready = [one.endpoint.hints for one in known.values() if one.endpoint.intent is _ACTIVE]
    return all(ready) and any(zone in hints for hints in ready)
