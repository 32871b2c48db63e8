"""The cases, and which subjects take part in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .backends import backends
from .discovery import discovery
from .full_speed import full_speed
from .latency import latency
from .memory import idle, slow_reader
from .payloads import LARGE, MEDIUM, SMALL, UNIQUE, UPLOAD, Payload
from .results import Series
from .runner import Bench
from .subjects import SUBJECTS, Subject
from .websocket import idle_websockets, round_trips

_SERVERS = ("gateway", "uvicorn", "traefik", "envoy", "caddy", "haproxy", "nginx")
_PROXIES = ("gateway", "traefik", "envoy", "caddy", "haproxy", "nginx")


@dataclass(frozen=True, slots=True)
class Case:
    """Something to find out."""

    name: str
    subjects: Sequence[str]
    measure: Callable[[Bench, Sequence[Subject]], list[Series]]

    def run(self, bench: Bench, peers: Sequence[str]) -> list[Series]:
        """Measure the gateway and those of the peers that take part; all, if none are named."""
        names = [n for n in self.subjects if n == "gateway" or not peers or n in peers]
        return self.measure(bench, [SUBJECTS[name] for name in names])


def _full_speed(
    name: str,
    title: str,
    payload: Payload,
    *,
    connections: int,
    subjects: Sequence[str] = _SERVERS,
) -> Case:
    measure = partial(full_speed, name=name, title=title, payload=payload, connections=connections)
    return Case(name, subjects, measure)


CASES = {
    case.name: case
    for case in (
        _full_speed("100b", "100 B", SMALL, connections=64, subjects=tuple(SUBJECTS)),
        _full_speed("unique", "100 B, no two heads alike", UNIQUE, connections=64),
        _full_speed("10k", "10 KB", MEDIUM, connections=64),
        _full_speed("upload64k", "64 KB upload", UPLOAD, connections=32),
        # Few connections: what they have under way when time is up was worked for, not counted.
        _full_speed("1m", "1 MB", LARGE, connections=8),
        Case("backends", ("gateway",), lambda bench, _: backends(bench)),
        Case("discovery", ("gateway",), lambda bench, _: discovery(bench)),
        Case("idle", _SERVERS, idle),
        Case("slow_reader", _PROXIES, slow_reader),
        Case("latency", _PROXIES, latency),
        Case("ws", (*_SERVERS, "asgiproxy"), round_trips),
        Case("ws_idle", _SERVERS, idle_websockets),
    )
}
