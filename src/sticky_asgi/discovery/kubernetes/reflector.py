"""Keeps a copy of some objects of the API server: lists them, then watches what changes.

What fails is raised, and the caller comes back after a pause; the copy and the version survive it,
so that watching goes on where it was and nothing is listed again. Only two things are mended here
and at once: a stream that ended after it had lived for a while, and a version that has expired.
Where that does not last, it is a failure like any other: the server is not hammered.

The rules are those of the API's documentation ("Efficient detection of changes") and of client-go.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...exceptions import DiscoveryError
from .api import Answer, ApiClient, ApiError, Expired, decode, glimpse, refusal, shorten
from .garbage import uncollected
from .lines import LineSplitter

logger = logging.getLogger("sticky_asgi.discovery")

T = TypeVar("T")

#: Seconds of a stream, drawn at random, after which the server is asked to end it; and those for
#: which it may then take its time.
STREAM_SECONDS = (240, 300)
STREAM_MARGIN = 30.0

#: Seconds, drawn at random, after which everything is listed again for safety's sake.
LIST_SECONDS = (27 * 60, 33 * 60)

#: Seconds that a stream must have lived to count as one.
SETTLED = 1.0

#: The longest event that is read, in bytes, and the most pages of a list.
MAX_EVENT = 8 * 2**20
MAX_PAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Some objects of one kind in one namespace.

    Args:
        group: Where the API has the kind: `api/v1` or `apis/<group>/<version>`.
        name: What the API calls the kind: `services`.
        namespace: The namespace.
        selector: `labelSelector` or `fieldSelector`, as the API takes them.
        page: Objects to be listed in one answer, which is decoded without a pause.
        about: What is to be said of them besides, in errors.
    """

    group: str
    name: str
    namespace: str
    selector: Mapping[str, str] = field(default_factory=dict)
    page: int
    about: str = ""

    @property
    def path(self) -> str:
        """Where they are listed and watched."""
        return f"/{self.group}/namespaces/{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return f"{self.name}{self.about} in namespace {self.namespace}"


class Reflector(Generic[T]):
    """A copy of the objects of one resource.

    Args:
        resource: What is listed and watched.
        read: Makes of an object what is kept of it, given what was kept of it before; None: it
            is none of ours. It raises ValueError if the object cannot be read: what was kept of
            it then stays.
        changed: Called with what was kept before and what is now; either may be None.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        resource: Resource,
        read: Callable[[dict[str, Any], T | None], T | None],
        changed: Callable[[T | None, T | None], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resource = resource
        self.objects: dict[str, T] = {}
        #: Where a watch goes on; None: everything must be listed first.
        self.version: str | None = None
        self._read = read
        self._changed = changed
        self._clock = clock
        self._versions: dict[str, str] = {}
        self._list_at = 0.0
        self._opened_at: float | None = None
        #: Whether it failed last, and no stream was opened since.
        self.has_failed = False
        self._may_mend = True
        self._unreadable: dict[str, str] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the server has kept a stream open for a while."""
        return self._opened_at is not None and self._clock() - self._opened_at >= SETTLED

    async def sync(self, api: ApiClient) -> None:
        """See to it that there is a copy. Raises DiscoveryError if none is to be had."""
        if self.version is None or self._clock() >= self._list_at:
            await self._list(api)

    async def follow(self, api: ApiClient, on_open: Callable[[], object]) -> None:
        """Keep the copy up to date, until DiscoveryError is raised.

        Args:
            api: Whom to ask.
            on_open: Called whenever a stream is open.
        """
        try:
            while True:
                await self.sync(api)
                await self._follow_stream(api, on_open)
        except DiscoveryError:
            self.has_failed = True
            raise
        finally:
            # The pause after a failure is the one that mends.
            self._may_mend = False

    async def _follow_stream(self, api: ApiClient, on_open: Callable[[], object]) -> None:
        """Watch until a stream is over. Raises DiscoveryError if another one is no use."""
        what = f"kubernetes: watch {self.resource}"
        seconds = random.randint(*STREAM_SECONDS)
        error = DiscoveryError(f"{what}: the server ended the stream at once")
        began = self._clock()
        try:
            async with asyncio.timeout(seconds + STREAM_MARGIN):
                await self._watch(api, what, seconds, on_open)
        except Expired as exc:
            self.version, error = None, exc
        except TimeoutError:
            error = DiscoveryError(f"{what}: the server did not end the stream in time")
        except StreamLost as exc:
            error = exc
        finally:
            self._opened_at = None
        if self._clock() - began >= SETTLED:
            self._may_mend = True
        elif self._may_mend:
            self._may_mend = False
        else:
            raise error
        if not self.version:
            self.version = None  # A server without versions: what happens now would be missed.

    # Listing

    async def _list(self, api: ApiClient) -> None:
        what = f"kubernetes: list {self.resource}"
        found: dict[str, T] = {}
        versions: dict[str, str] = {}
        params = {**self.resource.selector, "limit": str(self.resource.page)}
        for _ in range(MAX_PAGES):
            page = await api.get(self.resource.path, params, what=what)
            items, metadata = page.get("items"), page.get("metadata")
            if not isinstance(items, list | None) or not isinstance(metadata, dict):
                raise ApiError(f"{what}: the answer is no list: {glimpse(page)}")
            for item in items or ():
                with uncollected():
                    self._list_one(item, found, versions, what)
                # Each is some work, and many of them would hold up everybody else.
                await asyncio.sleep(0)
            token = metadata.get("continue")
            if not token:
                break
            params["continue"] = str(token)
        else:
            raise ApiError(f"{what}: more than {MAX_PAGES} pages")
        version = metadata.get("resourceVersion")
        self._replace(found, versions)
        self.version = version if isinstance(version, str) else ""
        self._list_at = self._clock() + random.uniform(*LIST_SECONDS)

    def _list_one(
        self, item: object, found: dict[str, T], versions: dict[str, str], what: str
    ) -> None:
        name, version = _name_and_version(item, what)
        before = self.objects.get(name)
        if version and self._versions.get(name) == version:
            made = before
        else:
            made = self._make(name, item, before)
        versions[name] = version
        if made is not None:
            found[name] = made

    def _replace(self, found: dict[str, T], versions: dict[str, str]) -> None:
        before, self.objects, self._versions = self.objects, found, versions
        self._unreadable = {
            name: said for name, said in self._unreadable.items() if name in versions
        }
        for name, gone in before.items():
            if name not in found:
                self._changed(gone, None)
        for name, made in found.items():
            old = before.get(name)
            if made is not old:
                self._changed(old, made)

    # Watching

    async def _watch(
        self, api: ApiClient, what: str, seconds: int, on_open: Callable[[], object]
    ) -> None:
        params = {
            **self.resource.selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        if self.version:
            params["resourceVersion"] = self.version
        splitter = LineSplitter(MAX_EVENT)
        quiet = seconds + STREAM_MARGIN
        async with api.stream(self.resource.path, params, what=what, quiet=quiet) as answer:
            self._opened_at = self._clock()
            self.has_failed = False
            on_open()
            while piece := await _read(answer):
                try:
                    lines = splitter.feed(piece)
                except ValueError as exc:
                    raise ApiError(f"{what}: {exc}") from None
                for line in lines:
                    with uncollected():
                        self._take(line, what)
                    await asyncio.sleep(0)

    def _take(self, line: bytes, what: str) -> None:
        """Take in one event."""
        event = decode(line, what)
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            raise ApiError(f"{what}: the event is none: {glimpse(event)}")
        kind, item = event.get("type"), event["object"]
        if kind == "ERROR":
            raise refusal(item, what)
        if kind == "BOOKMARK":
            self.version = _version(item) or self.version
            return
        name, version = _name_and_version(item, what)
        before = self.objects.get(name)
        if kind in ("ADDED", "MODIFIED"):
            self._versions[name] = version
            made = self._make(name, item, before)
        elif kind == "DELETED":
            self._versions.pop(name, None)
            self._unreadable.pop(name, None)
            made = None
        else:
            raise ApiError(f"{what}: the event is none: {glimpse(event)}")
        if made is None:
            self.objects.pop(name, None)
        else:
            self.objects[name] = made
        if version:
            self.version = version
        if made is not before:
            self._changed(before, made)

    def _make(self, name: str, item: Any, before: T | None) -> T | None:
        try:
            made = self._read(item, before)
        except ValueError as exc:
            said = shorten(str(exc))
            if self._unreadable.get(name) != said:
                self._unreadable[name] = said
                logger.warning(
                    "kubernetes: %s: %s cannot be read: %s", self.resource, shorten(name), said
                )
            return before
        self._unreadable.pop(name, None)
        return made

    def __repr__(self) -> str:
        return f"<Reflector of {self.resource} [{len(self.objects)} objects]>"


class StreamLost(DiscoveryError):
    """A stream broke off. It may go on where it was."""


async def _read(answer: Answer) -> bytes:
    """The next piece of a stream. Raises StreamLost where it breaks off."""
    try:
        return await answer.read()
    except DiscoveryError as exc:
        raise StreamLost(str(exc)) from exc


def _version(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""


def _name_and_version(item: object, what: str) -> tuple[str, str]:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not isinstance(item, dict):
        raise ApiError(f"{what}: an object has no name: {glimpse(item)}")
    return name, _version(item)
