"""What is known of the Services of a namespace, and how it is kept up to date.

A `Copy` belongs to nobody's event loop: after a failure it is handed to the next watch, which goes
on where the last one ended. A `Feed` is what keeps it up to date in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from .api import ApiClient
from .backends import Choice, ServiceBackends
from .endpoints import SERVICE_LABEL, Slice, read_slice
from .reflector import Reflector, Resource
from .services import Service, read_service

logger = logging.getLogger("sticky_asgi.discovery")

#: Objects in one answer. It is decoded without a pause: a full slice has a hundred endpoints.
SERVICES_PAGE = 100
SLICES_PAGE = 5

#: Seconds for which one stream has to be waited for before the other one is asked for: who
#: refuses does so at once, and who says nothing of one may well speak of the other.
TURN = 1.0

#: Seconds in which a stream is to heed that it was cancelled, before it is cancelled again.
HEEDING = 0.5


class Copy:
    """The Services of a namespace, or one of them, with their slices.

    Args:
        namespace: The namespace.
        choice: What is wanted of a Service.
        name: The only Service that is meant; None: all of them.
        selector: A label selector for the Services.

    Attributes:
        views: What is known of each Service, by name.
        changed: Names of the Services of which something has changed. Whoever has looked at it
            empties it.
        notify: Called when something has changed.
    """

    def __init__(
        self,
        namespace: str,
        choice: Choice,
        *,
        name: str | None = None,
        selector: str | None = None,
    ) -> None:
        self.namespace = namespace
        self.views: dict[str, ServiceBackends] = {}
        self.changed: set[str] = set()
        self.notify: Callable[[], None] = _do_nothing
        self._choice = choice
        self._name = name
        self._said: dict[str, frozenset[str]] = {}
        services, slices = _resources(namespace, name, selector)
        self.services = Reflector(services, self._read_service, self._on_service)
        self.slices = Reflector(slices, self._read_slice, self._on_slice)

    def say(self, name: str, remarks: Iterable[str]) -> None:
        """Tell the operator what is to be said of a Service, unless it was said before."""
        remarks = tuple(remarks)
        before = self._said.get(name, frozenset())
        for remark in remarks:
            if remark not in before:
                logger.warning("kubernetes: service %s/%s: %s", self.namespace, name, remark)
        if remarks:
            self._said[name] = frozenset(remarks)
        else:
            self._said.pop(name, None)

    # A server that does not know of selectors sends more than it was asked for.

    def _read_service(self, item: Mapping[str, Any], before: Service | None) -> Service | None:
        if self._name is not None and item["metadata"]["name"] != self._name:
            return None
        return read_service(item, before)

    def _read_slice(self, item: Mapping[str, Any], before: Slice | None) -> Slice | None:
        found = read_slice(item, before)
        if self._name is not None and found is not None and found.service != self._name:
            return None
        return found

    def _on_service(self, before: Service | None, now: Service | None) -> None:
        service = now or before
        if service is not None:
            self._view(service.name).service = now
            self._has_changed(service.name)
        if now is not None:
            known = () if before is None else before.notes
            for note in now.notes:
                if note not in known:
                    logger.debug("kubernetes: service %s/%s: %s", self.namespace, now.name, note)

    def _on_slice(self, before: Slice | None, now: Slice | None) -> None:
        if before is not None:
            self._view(before.service).slices.pop(before.name, None)
            self._has_changed(before.service)
        if now is not None:
            self._view(now.service).slices[now.name] = now
            self._has_changed(now.service)

    def _view(self, name: str) -> ServiceBackends:
        view = self.views.get(name)
        if view is None:
            view = self.views[name] = ServiceBackends(self._choice)
        return view

    def _has_changed(self, name: str) -> None:
        view = self.views.get(name)
        if view is not None and view.service is None and not view.slices:
            del self.views[name]
        self.changed.add(name)
        self.notify()


def _do_nothing() -> None:
    pass


def _resources(namespace: str, name: str | None, selector: str | None) -> tuple[Resource, Resource]:
    if name is not None:
        wanted = {"fieldSelector": f"metadata.name={name}"}
        of_service = f"{SERVICE_LABEL}={name}"
    else:
        wanted = {} if selector is None else {"labelSelector": selector}
        of_service = SERVICE_LABEL
    about = "" if name is None else f" of service {name}"
    return (
        Resource(
            group="api/v1",
            name="services",
            namespace=namespace,
            selector=wanted,
            page=SERVICES_PAGE,
            about="" if name is None else f" (only {name})",
        ),
        Resource(
            group="apis/discovery.k8s.io/v1",
            name="endpointslices",
            namespace=namespace,
            selector={"labelSelector": of_service},
            page=SLICES_PAGE,
            about=about,
        ),
    )


class Feed:
    """Keeps a copy up to date in the event loop that runs, until it is left.

    It begins with one request at a time, and first with what has failed before. So a server that
    refuses is asked once, and not once for each resource.

    Args:
        copy: The copy. Nobody else may feed it meanwhile.
        api: Whom to ask.

    Raises:
        DiscoveryError: There is no first copy to be had, when it is entered.
    """

    def __init__(self, copy: Copy, api: ApiClient) -> None:
        self._copy = copy
        self._api = api
        self._reflectors: tuple[Reflector[Any], ...] = (copy.services, copy.slices)
        self._event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        in_turn = sorted(self._reflectors, key=lambda reflector: not reflector.has_failed)
        for reflector in in_turn:
            await reflector.sync(self._api)
        self._copy.notify = self._event.set
        turn = asyncio.Event()
        turn.set()
        for reflector in in_turn:
            is_open = asyncio.Event()
            task = asyncio.create_task(self._follow(reflector, turn, is_open))
            task.add_done_callback(self._on_end)
            self._tasks.append(task)
            turn = is_open
        return self

    async def _follow(
        self, reflector: Reflector[Any], turn: asyncio.Event, is_open: asyncio.Event
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN):
                await turn.wait()
        await reflector.follow(self._api, is_open.set)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._copy.notify = _do_nothing
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            # anyio 4.10, for one, may lose a cancellation that comes as a connection is made.
            done, left = await asyncio.wait(left, timeout=HEEDING)
            await asyncio.gather(*done, return_exceptions=True)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._event.set()

    @property
    def is_settled(self) -> bool:
        """Whether the server has kept its streams open for a while."""
        return all(reflector.is_settled for reflector in self._reflectors)

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until something has changed, for some seconds at most.

        Raises:
            DiscoveryError: The copy is no longer kept up to date.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
        for task in self._tasks:
            if task.done():
                task.result()
