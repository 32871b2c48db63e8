"""`FakeKubernetes`: the API server as an object of your test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import errors, patches, resources, selectors
from .access import Access
from .errors import KubernetesError
from .faults import Fault, Faults, Requests
from .go_json import clone, encode
from .http_api import HttpApi
from .log import Request
from .resources import NAMESPACES, Object, Resource
from .serving import RunningKubernetes
from .store import Store
from .streams import Gate, Watches
from .verbs import Verbs
from .watch import Watch

#: Named here, since `list` is a method of the class below.
Objects: TypeAlias = list[Object]

#: What `flood` counts in.
_FLOOD = "testing.sticky-asgi/flood"


class FakeKubernetes:
    """A Kubernetes API server in your test: an ASGI app over objects in memory.

    It has what gateways watch and kubectl needs: Services, EndpointSlices, Endpoints, Pods,
    ConfigMaps, Secrets, Namespaces and Leases, with list, watch, create, update, patch and delete,
    resourceVersions, selectors, pages, bookmarks and the refusals of the real server. It does
    not run controllers: no EndpointSlice comes of a Service, and none goes with it.

    Served on a socket it can be used by anything that speaks to an API server:

        fake = FakeKubernetes()
        fake.create(service("web", namespace="shop"))
        with fake.running() as server:
            httpx.get(f"{server.url}/api/v1/namespaces/shop/services")

    Its methods may be called from any thread while it is served.

    Args:
        token: What `Authorization: Bearer ...` has to say; anything else is answered with 401.
            None, the default, lets everybody in. Set the attribute `token` to rotate it.
        user: Who the token belongs to, for the wording of refusals.
        namespaces: Namespaces that are there from the start.
        history: How many events are kept. A watch from before them is gone (410). Default 1000.
        bookmark_interval: Seconds between two BOOKMARK events of a watch that wants them. Default
            60, as the real server's; `bookmark()` sends them at once.
        clock: Seconds since the epoch, for `creationTimestamp` and the log of requests.

    Attributes:
        requests: Every request that came by HTTP, oldest first; a list of `Request`. Clear it with
            `requests.clear()`.

    Raises:
        ValueError: A history or an interval that is not positive.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        user: str = "system:serviceaccount:default:default",
        namespaces: Sequence[str] = ("default",),
        history: int = 1000,
        bookmark_interval: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if history < 1:
            raise ValueError(f"history must be at least 1, got {history!r}")
        if not bookmark_interval > 0:
            raise ValueError(
                f"bookmark_interval must be a positive number of seconds, got {bookmark_interval!r}"
            )
        self.requests: list[Request] = []
        self._store = Store(history)
        self._verbs = Verbs(self._store, clock)
        self._access = Access(token, user)
        self._faults = Faults()
        self._watches = Watches()
        self._gate = Gate()
        self._http = HttpApi(
            store=self._store,
            verbs=self._verbs,
            access=self._access,
            faults=self._faults,
            watches=self._watches,
            gate=self._gate,
            log=self.requests,
            clock=clock,
            bookmark_interval=bookmark_interval,
        )
        self._app = Starlette(routes=[Route("/{path:path}", self._http)])
        for name in namespaces:
            self._ensure_namespace(name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The API server as an ASGI app."""
        await self._app(scope, receive, send)

    @contextmanager
    def running(
        self,
        *,
        port: int = 0,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
    ) -> Iterator[RunningKubernetes]:
        """Serve it on 127.0.0.1, in a thread of its own, for as long as the block lasts.

        A thread, so that it can be had in a plain test, in a fixture and beside any event loop.

        Args:
            port: Where; 0, the default, takes a free one.
            certfile: PEM file with a certificate chain, to serve https.
            keyfile: PEM file with the key, if it is not in `certfile`.

        Yields:
            The running server: its `url` and `port`; `stop()` and `start()` let it die and return.

        Raises:
            OSError: The port is taken, or a file cannot be read.
            ModuleNotFoundError: uvicorn is missing; the extra `cli` installs it.
        """
        server = RunningKubernetes(
            self, port=port, certfile=certfile, keyfile=keyfile, hang_up=self._http.hang_up
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()

    # Objects

    @property
    def version(self) -> str:
        """The newest resourceVersion of all."""
        return str(self._store.version)

    def create(self, obj: Object) -> Object:
        """Create an object from a manifest; its namespace too, if it is missing.

        Returns:
            The object as it is held: with uid, resourceVersion and defaults.

        Raises:
            KubernetesError: 409, it exists; 422, it is invalid; 400, it is no such object.
            ValueError: The fake does not hold such objects.
        """
        resource = resources.of_object(obj)
        namespace = self._namespace_of(resource, obj)
        if namespace is not None:
            self._ensure_namespace(namespace)
        return _copy(self._verbs.create(resource, namespace, obj))

    def replace(self, obj: Object) -> Object:
        """Put an object in the place of the one of its name, as PUT does.

        Give it the `resourceVersion` that you have read to be refused (409) when somebody wrote in
        between; without, the last one wins.

        Raises:
            KubernetesError: 404, 409, 422 or 400.
            ValueError: The fake does not hold such objects.
        """
        resource = resources.of_object(obj)
        name = (obj.get("metadata") or {}).get("name", "")
        namespace = self._namespace_of(resource, obj)
        return _copy(self._verbs.update(resource, namespace, name, obj, dry_run=False)[0])

    def patch(
        self, resource: str, namespace: str | None, name: str, patch: Object | Objects
    ) -> Object:
        """Change an object by a merge patch (a dict) or a JSON patch (a list of operations).

        Args:
            resource: `services`, `Service` or `svc`.
            namespace: None for what has none.
            name: The object's name.
            patch: RFC 7396, where None removes a key; or RFC 6902.

        Raises:
            KubernetesError: 404, 409, 422 or 400.
            ValueError: The fake does not hold such objects.
        """
        kind = patches.JSON_PATCH if isinstance(patch, list) else patches.MERGE_PATCH
        found = resources.named(resource)
        return _copy(self._verbs.patch(found, namespace, name, patch, kind=kind)[0])

    def delete(self, resource: str, namespace: str | None, name: str) -> Object:
        """Delete an object; a namespace, with all that is in it.

        Returns:
            The object as it was. If it has finalizers, it is only marked for deletion, and goes
            when the last of them is taken off.

        Raises:
            KubernetesError: 404.
            ValueError: The fake does not hold such objects.
        """
        return _copy(self._verbs.delete(resources.named(resource), namespace, name)[0])

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        """A copy of an object.

        Raises:
            KubernetesError: 404.
            ValueError: The fake does not hold such objects.
        """
        return _copy(self._verbs.get(resources.named(resource), namespace, name))

    def list(
        self, resource: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Objects:
        """Copies of the objects of one kind, sorted by namespace and name.

        Args:
            resource: `services`, `Service` or `svc`.
            namespace: None for all.
            labels: A label selector, such as `app=web,tier in (a, b),!old`.
            fields: A field selector, by `metadata.name` and `metadata.namespace`.

        Raises:
            KubernetesError: 400, a selector is none.
            ValueError: The fake does not hold such objects.
        """
        found = resources.named(resource)
        selector = selectors.parse(namespace, labels, fields)
        return [_copy(obj) for _, obj in self._store.items(found, selector)]

    def _namespace_of(self, resource: Resource, obj: Object) -> str | None:
        if not resource.is_namespaced:
            return None
        return (obj.get("metadata") or {}).get("namespace") or "default"

    def _ensure_namespace(self, name: str) -> None:
        with self._store.lock:
            if self._store.get(NAMESPACES, ("", name)) is None:
                self._verbs.create(NAMESPACES, None, {"metadata": {"name": name}})

    # Who may do what

    @property
    def token(self) -> str | None:
        """The bearer token that is let in; None lets everybody in. Set it to rotate it."""
        return self._access.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._access.token = token

    def forbid(
        self,
        verb: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
    ) -> None:
        """Refuse requests with 403 from now on, as missing RBAC rules do.

        Args:
            verb: Such as `watch`; None for all.
            resource: Such as `services`; None for all.
            namespace: In which namespace; None for all.

        Raises:
            ValueError: An unknown verb or resource.
        """
        self._access.forbid(Requests.of(verb, resource, namespace))

    def allow(
        self,
        verb: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
    ) -> None:
        """Take back a `forbid` with the same arguments."""
        self._access.allow(Requests.of(verb, resource, namespace))

    # Faults of the next requests

    def fail(
        self,
        status: int,
        verb: str | None = None,
        resource: str | None = None,
        *,
        times: int = 1,
        retry_after: int | None = None,
        message: str = "told to fail",
    ) -> None:
        """Answer the next requests with an error.

        Args:
            status: The HTTP status, such as 429, 500 or 503.
            verb: Only requests with this verb; None for any.
            resource: Only requests for this resource; None for any.
            times: How many requests.
            retry_after: Seconds for `Retry-After` and `details.retryAfterSeconds`.
            message: What the Status says.

        Raises:
            ValueError: An unknown verb or resource, a status that is no error, no `times`.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"status must be that of an error, 400 to 599, got {status!r}")
        details = None if retry_after is None else {"retryAfterSeconds": retry_after}
        error = KubernetesError(status, message, details=details)
        self._faults.add(Fault(Requests.of(verb, resource), times, error=error))

    def delay(
        self,
        seconds: float,
        verb: str | None = None,
        resource: str | None = None,
        *,
        times: int = 1,
    ) -> None:
        """Answer the next requests as usual, but so many seconds later.

        Raises:
            ValueError: Negative seconds, an unknown verb or resource, no `times`.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, got {seconds!r}")
        self._faults.add(Fault(Requests.of(verb, resource), times, delay=seconds))

    def hang(self, verb: str | None = None, resource: str | None = None, *, times: int = 1) -> None:
        """Do not answer the next requests until `release`."""
        self._faults.add(Fault(Requests.of(verb, resource), times, effect="hang"))

    def release(self) -> int:
        """Answer the requests that hang, as if nothing had been. Returns how many there were."""
        return self._gate.open()

    def cut_off(
        self, verb: str | None = None, resource: str | None = None, *, times: int = 1
    ) -> None:
        """Break the next responses off behind their first bytes."""
        self._faults.add(Fault(Requests.of(verb, resource), times, effect="cut off"))

    def clear_faults(self) -> None:
        """Forget the faults that have met no request yet."""
        self._faults.clear()

    # Watches that are open

    def watching(self, resource: str | None = None) -> int:
        """How many watches are open now, of one resource or of all."""
        return len(self._chosen(resource))

    def end_watches(self, resource: str | None = None) -> int:
        """End the watches, as the server does when their time is over. Returns how many."""
        return self._each(resource, Watch.end)

    def drop_watches(self, resource: str | None = None) -> int:
        """Break the watches off in the middle of the response. Returns how many."""
        return self._each(resource, Watch.cut)

    def expire_watches(self, resource: str | None = None) -> int:
        """Have each watch get an ERROR event with 410 and end. Returns how many.

        Unlike `compact`, this leaves the history: a watch can be resumed at once.
        """
        with self._store.lock:
            error = errors.too_old(self._store.version - 1, self._store.version)
        return self.fail_watches(error, resource)

    def fail_watches(self, error: KubernetesError, resource: str | None = None) -> int:
        """Have each watch get an ERROR event of your choice and end. Returns how many."""
        return self._each(resource, lambda watch: watch.fail(error))

    def send_raw(self, data: bytes, resource: str | None = None) -> int:
        """Send bytes on each watch, as they are: a line that is no event needs its newline.

        Returns how many watches there were.
        """
        return self._each(resource, lambda watch: watch.send(data))

    def break_line(self, resource: str | None = None) -> int:
        """Send half an event on each watch, and break it off there. Returns how many."""
        return self._each(resource, _break_line)

    def bookmark(self, resource: str | None = None) -> int:
        """Send a BOOKMARK on each watch that wants them, now. Returns how many were asked."""
        return self._each(resource, Watch.bookmark)

    def flood(self, resource: str, namespace: str | None, name: str, events: int) -> Object:
        """Write an object as often as that, each time with another annotation.

        Args:
            resource: `services`, `Service` or `svc`.
            namespace: None for what has none.
            name: The object's name.
            events: How many writes, hence events.

        Returns:
            The object at last.

        Raises:
            KubernetesError: 404.
        """
        obj = self.get(resource, namespace, name)
        begin = int((obj["metadata"].get("annotations") or {}).get(_FLOOD, "0"))
        for number in range(begin + 1, begin + 1 + events):
            patch = {"metadata": {"annotations": {_FLOOD: str(number)}}}
            obj = self.patch(resource, namespace, name, patch)
        return obj

    def compact(self) -> None:
        """Forget the history: who resumes a watch, or continues a list, gets 410 and has to list.

        Watches that are open go on, and whoever knows the newest version may go on from there: the
        last write, or a bookmark, told it. So have something written first, such as a ConfigMap.
        """
        self._store.compact()

    def _chosen(self, resource: str | None) -> Sequence[Watch]:
        return self._watches.of(None if resource is None else resources.named(resource))

    def _each(self, resource: str | None, act: Callable[[Watch], None]) -> int:
        watches = self._chosen(resource)
        for watch in watches:
            act(watch)
        return len(watches)

    def __repr__(self) -> str:
        return (
            f"<FakeKubernetes version {self.version} "
            f"[{len(self._store)} objects | {self.watching()} watches | "
            f"{len(self.requests)} requests]>"
        )


def _copy(obj: Object) -> Object:
    copy: Object = clone(obj)
    return copy


def _break_line(watch: Watch) -> None:
    line = encode({"type": "MODIFIED", "object": {"kind": watch.resource.kind}})
    watch.send(line[: len(line) // 2])
    watch.cut()
