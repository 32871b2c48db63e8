"""What is held, in which version, and what has happened since: etcd and the watch cache.

One number counts every write to any object, as in a real cluster. Objects are never changed where
they lie: a write puts another one in their place, so events and readers may share them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from . import errors
from .resources import RESOURCES, Object, Resource
from .selectors import Selector

#: Namespace ("" if it has none) and name.
Key: TypeAlias = tuple[str, str]

#: Versions of a cluster do not begin at 1, so nobody takes them for a count.
_FIRST_VERSION = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One write.

    Attributes:
        version: The number it was given.
        resource: What was written to.
        key: The object's place.
        old: The object before; None if it was created.
        new: The object after; None if it was deleted.
        last: What a watch shows of it: the object after, or the deleted one with the deletion's
            version.
    """

    version: int
    resource: Resource
    key: Key
    old: Object | None
    new: Object | None
    last: Object

    def seen_by(self, selector: Selector) -> tuple[str, Object] | None:
        """What this is to a watch that only sees the objects of a selector: its type and object.

        An object that begins to match is ADDED, and one that stops is DELETED; the latter is
        shown as it was, with the new version.
        """
        was, is_now = selector.matches(self.old), selector.matches(self.new)
        if is_now:
            return ("MODIFIED" if was else "ADDED"), self.last
        if was and self.old is not None:
            return "DELETED", at_version(self.old, self.version)
        return None


def at_version(obj: Object, version: int) -> Object:
    """The object with another resourceVersion."""
    return obj | {"metadata": obj["metadata"] | {"resourceVersion": str(version)}}


class Store:
    """Objects, versions and history. Every method may be called from any thread.

    Args:
        history: How many events are kept; a version from before them is gone (410).

    Attributes:
        lock: Held while something is read that must belong together.
        version: The newest.
        oldest: The oldest version from which a watch can go on.
    """

    def __init__(self, history: int) -> None:
        self.lock = threading.RLock()
        self.version = _FIRST_VERSION
        self.oldest = _FIRST_VERSION
        self._objects: dict[Resource, dict[Key, Object]] = {one: {} for one in RESOURCES}
        self._history: deque[Event] = deque(maxlen=history)
        self._listeners: list[Callable[[Event], None]] = []

    def __len__(self) -> int:
        with self.lock:
            return sum(map(len, self._objects.values()))

    def get(self, resource: Resource, key: Key) -> Object | None:
        with self.lock:
            return self._objects[resource].get(key)

    def put(self, resource: Resource, key: Key, obj: Object | None) -> Object:
        """Write an object, or with None delete it. Returns what watches show of it."""
        with self.lock:
            objects = self._objects[resource]
            old = objects.get(key)
            self.version += 1
            written = old if obj is None else obj
            assert written is not None
            last = at_version(written, self.version)
            if obj is None:
                del objects[key]
            else:
                objects[key] = last
            event = Event(self.version, resource, key, old, None if obj is None else last, last)
            if len(self._history) == self._history.maxlen:
                self.oldest = self._history[0].version
            self._history.append(event)
            for listener in tuple(self._listeners):
                listener(event)
            return last

    def items(
        self, resource: Resource, selector: Selector, version: int | None = None
    ) -> list[tuple[Key, Object]]:
        """The objects that match, sorted as the server sorts them.

        Args:
            resource: Which kind.
            selector: Which of them.
            version: As of when; None for now.

        Raises:
            KubernetesError: 410, that version is gone; 504, it has not come yet.
        """
        with self.lock:
            objects = dict(self._objects[resource])
            for event in reversed(() if version is None else self.since(version)):
                if event.resource is not resource:
                    continue
                if event.old is None:
                    objects.pop(event.key, None)
                else:
                    objects[event.key] = event.old
        return sorted(
            ((key, obj) for key, obj in objects.items() if selector.matches(obj)),
            key=lambda item: item[0],
        )

    def since(self, version: int) -> tuple[Event, ...]:
        """What has happened after a version.

        Raises:
            KubernetesError: 410, it is gone; 504, it has not come yet.
        """
        with self.lock:
            if version < self.oldest:
                raise errors.too_old(version, self.oldest)
            if version > self.version:
                raise errors.too_new(version, self.version)
            return tuple(self._after(version))

    def _after(self, version: int) -> Iterator[Event]:
        return (event for event in self._history if event.version > version)

    def compact(self) -> None:
        """Forget the history. Only the newest version can be gone on from."""
        with self.lock:
            self.oldest = self.version
            self._history.clear()

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Have it called with each event, in the thread that writes, with the lock held."""
        with self.lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[Event], None]) -> None:
        with self.lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
