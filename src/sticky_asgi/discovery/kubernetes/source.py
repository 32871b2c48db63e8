"""What the sources of this package have in common: how a watch is begun, told of and resumed."""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...checks import check_type
from ...exceptions import DiscoveryError
from ...snapshot import Snapshot, is_same
from .api import ApiServer
from .backends import Choice
from .copy import Copy, Feed
from .reflector import SETTLED

V = TypeVar("V")

#: Putting a value together takes at most one part in so many of the time, while many changes come
#: in quick succession; and none waits longer than so many seconds.
SHARE = 5
PATIENCE = 0.03

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123, as the API wants names


def check_name(name: str, value: object) -> None:
    """Raises ValueError unless it is what a Service or a namespace can be called."""
    check_type(name, value, str)
    if not _LABEL.fullmatch(str(value)):
        raise ValueError(f"{name} must be a name such as 'web-1', got {value!r}")


@dataclass(slots=True)
class Memory(Generic[V]):
    """What a watch leaves to the next one when it fails.

    Args:
        copy: The objects, and where their watches go on.
        told: The last value that was told.
        problem: What is wrong with the Service, if that was the last failure.
    """

    copy: Copy
    told: V | None = None
    problem: str | None = None


class Source(ABC, Generic[V]):
    """Tells values that are put together from the objects of a namespace.

    Args:
        namespace: The namespace; None: the one we run in.
        server: Where the API server is.
        choice: What is wanted of a Service.
        name: The only Service that is meant; None: all of them.
        selector: A label selector for the Services.

    Raises:
        ValueError: No name of a namespace, or none with a server that is not our own cluster's.
        TypeError: An argument of another type.
    """

    def __init__(
        self,
        namespace: str | None,
        server: ApiServer,
        choice: Choice,
        *,
        name: str | None = None,
        selector: str | None = None,
    ) -> None:
        if namespace is not None:
            check_name("namespace", namespace)
        elif not server.is_own_cluster:
            raise ValueError("namespace must be given where the gateway is no pod of the cluster")
        self.namespace = namespace
        self.server = server
        self.choice = choice
        self._name = name
        self._selector = selector
        # Each watch takes one, or makes one, and lays it back if it fails: no two share one.
        self._memories: deque[Memory[V]] = deque()

    @abstractmethod
    async def _look(self, memory: Memory[V]) -> V | None:
        """What is to be told now; None: nothing, and what was told last holds.

        Raises:
            DiscoveryError: What the objects say cannot be used.
        """

    @abstractmethod
    def _is_news(self, before: V, now: V) -> bool:
        """Whether anything has changed."""

    async def _tell(self) -> AsyncIterator[V]:
        memory = self._take_memory()
        try:
            async with self.server.connect() as api, Feed(memory.copy, api) as feed:
                has_told = False
                while True:
                    began, used = time.perf_counter(), time.thread_time()
                    value = await self._look(memory)
                    patience = min((time.thread_time() - used) * SHARE, PATIENCE)
                    # After a failure that changed nothing, only a server that stays is back.
                    if value is not None and (
                        memory.told is None
                        or self._is_news(memory.told, value)
                        or (feed.is_settled and not has_told)
                    ):
                        memory.told, has_told = value, True
                        yield value
                    await feed.wait(None if has_told or value is None else SETTLED)
                    await asyncio.sleep(began + patience - time.perf_counter())
        except DiscoveryError as exc:
            if str(exc) != memory.problem:
                memory.problem = None
            self._memories.append(memory)
            raise

    def _take_memory(self) -> Memory[V]:
        try:
            return self._memories.pop()
        except IndexError:
            pass
        namespace = self.namespace or self.server.own_namespace()
        copy = Copy(namespace, self.choice, name=self._name, selector=self._selector)
        return Memory(copy)

    def _key(self) -> tuple[object, ...]:
        return self.namespace, self.server, self.choice, self._name, self._selector

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, Source)
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def is_other(before: Snapshot, now: Snapshot) -> bool:
    """Whether a snapshot says something else."""
    return (
        not is_same(before.backends, now.backends)
        or before.intents != now.intents
        or before.affinity != now.affinity
    )
