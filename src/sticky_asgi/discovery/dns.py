"""A pool whose backends are the records of a name: A, AAAA or SRV.

Decided here is which backends records make, for how long they hold, and when "there are none" is
believed. How servers are asked is in `dns_answers.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from ..backend import Backend
from ..checks import check_type, is_amount, is_int
from ..exceptions import DiscoveryError
from ..snapshot import Snapshot

if TYPE_CHECKING:
    from .dns_answers import Addresses, Resolver, Service

logger = logging.getLogger("sticky_asgi.discovery")

_PORTS = {"http": 80, "https": 443}

#: Targets of SRV records that are looked up at a time.
_AT_ONCE = 10

#: By how much a pause may be longer than it must, so that not all gateways ask at one moment.
_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class DNS:
    """The backends are what a name's records say.

    With A and AAAA each address is a backend, and its id is `address:port`. With SRV each target
    is one: its id is `target:port`, so that visitors stay with a target whose address changes. Of
    several addresses of a target the lowest is used, IPv4 before IPv6: RFC 2782 takes a target
    for one host.

    SRV priorities, in their order, become `Backend.priority` 0, 1, 2 and so on; weights become
    weights, and 0 becomes 1, which is what it counts for in the draw of RFC 2782. A target
    without an address is left out.

    What was found is asked for again when its TTL is over, and a little later by chance. When
    nobody answers, or with an error, what is in force stays, however long that takes: silence is
    never taken for "no backends". An answer that there are none, be it NXDOMAIN or an empty one,
    is believed when for `grace` seconds there was no other, and no failure either. Only answers
    to the same `asyncio.Task` count, since what was empty when somebody left says nothing to
    whoever watches later. A pool follows its source in one task; a source of yours that asks this
    one must do so as well, or no empty answer is believed.

    The backends' `metadata` has `name`, what was asked for, and `target`, where CNAMEs or the SRV
    record led.

    Args:
        name: What to look up, such as `web.shop.svc.cluster.local` or `_http._tcp.web.test`.
            Always the whole name: no search domains are tried.
        port: Of the backends. Default None: the scheme's; with SRV the records say it.
        type: `"A"` (default), `"AAAA"` or `"SRV"`.
        scheme: `"http"` (default) or `"https"`; certificates are then for the address, or for
            `TLS.server_name`.
        min_ttl: Seconds for which an answer holds at least. Default 5.
        max_ttl: Seconds for which one holds at most. Default 60.
        grace: Seconds. Default 60; at 0 an empty answer is believed at once.
        nameservers: IP addresses of the servers to ask, with a port if it is not 53:
            `"10.0.0.2"`, `"10.0.0.2:5353"`, `"[::1]:5353"`. Default None: the system's.
        timeout: Seconds for a question, all servers and repeats included. Default 5.
        max_backends: With more, the answer is refused and what is in force stays. Default 1000.
        clock: Tells seconds; for tests.
        sleep: Waits for seconds; for tests.

    Raises:
        ImportError: dnspython, the extra `dns`, is not installed.
        ValueError: A value that is no such thing, naming it.
        TypeError: A name that is no string.

    Source: the TTL with floor and ceiling is that of HAProxy's `hold` and Envoy's strict DNS.
    """

    name: str
    _: KW_ONLY
    port: int | None = None
    type: Literal["A", "AAAA", "SRV"] = "A"
    scheme: Literal["http", "https"] = "http"
    min_ttl: float = 5.0
    max_ttl: float = 60.0
    grace: float = 60.0
    nameservers: Sequence[str] | None = None
    timeout: float = 5.0
    max_backends: int = 1000
    clock: Callable[[], float] = field(default=time.monotonic, compare=False, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(
        default=asyncio.sleep, compare=False, repr=False
    )
    #: Since when all answers have been empty, for each task that watches again and again. Whoever
    #: leaves between two watches cannot say so, but its task ends.
    _empty_since: WeakKeyDictionary[asyncio.Task[Any], float] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        # Loading it takes a moment that no event loop has.
        _load_resolver()
        object.__setattr__(self, "name", _checked_name(self.name))
        for key, allowed in (("type", ("A", "AAAA", "SRV")), ("scheme", ("http", "https"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} must be one of {allowed}, got {getattr(self, key)!r}")
        if self.port is not None and not (is_int(self.port) and 0 < self.port < 65536):
            raise ValueError(f"port must be a number from 1 to 65535, got {self.port!r}")
        if self.port is not None and self.type == "SRV":
            raise ValueError(f"port must be None with SRV, whose records name it, got {self.port}")
        for key in ("min_ttl", "max_ttl", "timeout", "grace"):
            value = getattr(self, key)
            if not is_amount(value) or (value == 0 and key != "grace"):
                raise ValueError(f"{key} must be a positive number of seconds, got {value!r}")
        if self.max_ttl < self.min_ttl:
            raise ValueError(
                f"max_ttl must be at least min_ttl ({self.min_ttl:g}), got {self.max_ttl!r}"
            )
        if not (is_int(self.max_backends) and self.max_backends > 0):
            raise ValueError(f"max_backends must be at least 1, got {self.max_backends!r}")
        if self.nameservers is not None:
            object.__setattr__(self, "nameservers", _checked_servers(self.nameservers))

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Tell the backends now, and whenever another answer comes. See `Discovery`."""
        servers = None
        if self.nameservers is not None:
            servers = [parse_nameserver(text) for text in self.nameservers]
        resolver = _load_resolver()(servers, self.timeout)
        task = asyncio.current_task()
        assert task is not None
        known: _Found | None = None
        is_early = False
        try:
            while True:
                found = await self._look(resolver)
                is_early = self._is_early(task, found)
                if is_early:
                    raise DiscoveryError(f"{self.type} of {self.name}: there are no such records")
                if found.left_out and (known is None or known.left_out != found.left_out):
                    names = ", ".join(found.left_out)
                    logger.warning("%s: left out, for want of an address: %s", self.name, names)
                if known is None or known.endpoints != found.endpoints:
                    yield Snapshot(backends=tuple(map(self._backend, found.endpoints)))
                known = found
                held = min(max(found.ttl, self.min_ttl), self.max_ttl)
                await self.sleep(held * random.uniform(1, 1 + _JITTER))
        finally:
            # The grace goes on in the watch that follows, unless nobody answered, who may not
            # know all names as soon as they are back, or nobody wants to know any more.
            if not is_early:
                self._empty_since.pop(task, None)

    def _is_early(self, task: asyncio.Task[Any], found: _Found) -> bool:
        """Whether it is too early to believe that there are no backends."""
        if found.endpoints:
            self._empty_since.pop(task, None)
            return False
        now = self.clock()
        return now - self._empty_since.setdefault(task, now) < self.grace

    async def _look(self, resolver: Resolver) -> _Found:
        if self.type == "SRV":
            return await self._look_for_services(resolver)
        answer = await resolver.addresses(self.name, self.type)
        self._check_number(len(answer.addresses))
        port = self.port or _PORTS[self.scheme]
        endpoints = tuple(
            _Endpoint(_join(address, port), address, port, answer.target)
            for address in answer.addresses
        )
        return _Found(endpoints, answer.ttl)

    async def _look_for_services(self, resolver: Resolver) -> _Found:
        answer = await resolver.services(self.name)
        records = _without_duplicates(answer.records)
        if any(record.port == 0 for record in records):
            raise DiscoveryError(f"SRV of {self.name}: a record has port 0")
        self._check_number(len(records))
        targets = {record.target for record in records} - answer.hosts.keys()
        hosts = {**answer.hosts, **await _locate(resolver, targets)}
        ranks = sorted({record.priority for record in records})
        endpoints = tuple(
            _Endpoint(
                _join(record.target, record.port),
                hosts[record.target].addresses[0],
                record.port,
                record.target,
                weight=record.weight or 1,
                priority=ranks.index(record.priority),
            )
            for record in records
            if hosts[record.target].addresses
        )
        used = [hosts[record.target] for record in records]
        left_out = tuple(sorted({host.target for host in used if not host.addresses}))
        return _Found(endpoints, min([answer.ttl, *(host.ttl for host in used)]), left_out)

    def _check_number(self, records: int) -> None:
        if records > self.max_backends:
            raise DiscoveryError(
                f"{self.type} of {self.name}: {records} records are more than "
                f"max_backends={self.max_backends}"
            )

    def _backend(self, endpoint: _Endpoint) -> Backend:
        return Backend(
            f"{self.scheme}://{_join(endpoint.address, endpoint.port)}",
            id=endpoint.id,
            weight=endpoint.weight,
            priority=endpoint.priority,
            metadata={"name": self.name, "target": endpoint.target},
        )


class _Endpoint(NamedTuple):
    """What becomes a backend; equal if nothing of it has changed."""

    id: str
    address: str
    port: int
    target: str
    weight: int = 1
    priority: int = 0


class _Found(NamedTuple):
    """What the name says now, for how long that holds, and which targets have no address."""

    endpoints: tuple[_Endpoint, ...]
    ttl: float
    left_out: tuple[str, ...] = ()


def _without_duplicates(records: Sequence[Service]) -> list[Service]:
    """Each target and port once, where it comes first; in the order of priorities."""
    first: dict[tuple[str, int], Service] = {}
    for record in sorted(records, key=lambda record: (record.priority, -record.weight)):
        first.setdefault((record.target, record.port), record)
    return sorted(first.values(), key=lambda record: (record.priority, record.target, record.port))


async def _locate(resolver: Resolver, targets: set[str]) -> Mapping[str, Addresses]:
    """Look up several hosts. One that nobody answers for fails them all."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def locate(target: str) -> Addresses:
        async with gate:
            return (await resolver.host(target))._replace(target=target)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {target: group.create_task(locate(target)) for target in sorted(targets)}
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from None
    return {target: task.result() for target, task in tasks.items()}


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _load_resolver() -> type[Resolver]:
    try:
        from .dns_answers import Resolver
    except ImportError as exc:
        raise ImportError("DNS takes an extra: pip install 'sticky-asgi[dns]'") from exc
    return Resolver


def _checked_name(name: str) -> str:
    check_type("name", name, str)
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        raise ValueError(f"name must be no address, got {name!r}; give the pool its URL instead")
    if ":" in name or "/" in name:
        raise ValueError(f"name must be a domain name without scheme and port, got {name!r}")
    normalized = _load_resolver().normalize(name)
    if normalized is None:
        raise ValueError(f"name must be a domain name, got {name!r}")
    return normalized


def _checked_servers(nameservers: Any) -> tuple[str, ...]:
    servers = (nameservers,) if isinstance(nameservers, str) else tuple(nameservers)
    if not servers:
        raise ValueError("nameservers must name at least one, or be None for the system's")
    for server in servers:
        check_type("a name server", server, str)
        parse_nameserver(server)
    return servers


def parse_nameserver(text: str) -> tuple[str, int]:
    """Address and port of a name server: `10.0.0.2`, `10.0.0.2:5353`, `::1` or `[::1]:5353`.

    Raises:
        ValueError: It is no such thing.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text.removesuffix("]")[1:].partition("]:")
        port = port or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ipaddress.ip_address(host))
        number = int(port) if port.isascii() and port.isdigit() else 0
        if not 0 < number < 65536:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"nameservers must be IP addresses, such as 10.0.0.2 or [::1]:5353, got {text!r}"
        ) from None
    return address, number
