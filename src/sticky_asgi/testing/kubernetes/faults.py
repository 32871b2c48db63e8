"""What goes wrong on request, and who may do what."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from .errors import KubernetesError
from .log import Request
from .resources import VERBS, named

Effect = Literal["cut off", "hang"]


@dataclass(frozen=True, slots=True)
class Requests:
    """Which requests are meant: None stands for any."""

    verb: str | None = None
    resource: str | None = None
    namespace: str | None = None

    @classmethod
    def of(cls, verb: str | None, resource: str | None, namespace: str | None = None) -> Requests:
        """Raises ValueError for a verb or a resource that does not exist."""
        if verb is not None and verb not in VERBS:
            raise ValueError(f"unknown verb {verb!r}; one of {', '.join(VERBS)}")
        return cls(verb, None if resource is None else named(resource).plural, namespace)

    def include(self, request: Request) -> bool:
        return (
            self.verb in (None, request.verb)
            and self.resource in (None, request.resource)
            and self.namespace in (None, request.namespace)
        )


@dataclass(slots=True)
class Fault:
    """What becomes of the next few requests.

    Attributes:
        requests: Which.
        times: How many are left.
        delay: Seconds before anything happens.
        effect: What happens to them then.
        error: What they are answered with. Without effect and error, they pass.
    """

    requests: Requests
    times: int
    delay: float = 0.0
    effect: Effect | None = None
    error: KubernetesError | None = None


class Faults:
    """The faults to come, in the order in which they were asked for. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Raises ValueError unless it is for at least one request."""
        if fault.times < 1:
            raise ValueError(f"times must be at least 1, got {fault.times!r}")
        with self._lock:
            self._faults.append(fault)

    def take(self, request: Request) -> Fault | None:
        """The fault that this request meets, if any. It is used up by it."""
        with self._lock:
            for fault in self._faults:
                if fault.requests.include(request):
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
