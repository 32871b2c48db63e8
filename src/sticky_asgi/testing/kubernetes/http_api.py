"""The verbs by HTTP: paths, headers, bodies and status codes, and the faults on the way.

The order is the real server's: the token is looked at first, then comes what the server's own
state makes of a request (the faults), then whether it is allowed, then what it asks for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from . import documents, errors, patches, reading, resources, selectors
from .access import Access
from .errors import KubernetesError
from .faults import Fault, Faults
from .go_json import encode
from .log import Request
from .resources import Object, Resource
from .store import Store
from .streams import CutOffResponse, Gate, Watches, WatchResponse
from .verbs import Verbs
from .watch import Watch

_MAX_BODY = 3 * 1024 * 1024
_PATH = re.compile(
    r"(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)
_VERB_OF = {
    ("GET", True): "get",
    ("GET", False): "list",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str | None
    name: str


def target_of(path: str) -> Target | None:
    """The resource, and maybe the object, at a path; None if it names none."""
    match = _PATH.fullmatch(path.strip("/"))
    if match is None:
        return None
    group, version = match["group"] or "", match["core"] or match["version"]
    resource = resources.at(group, version, match["plural"])
    if resource is None or (match["namespace"] and not resource.is_namespaced):
        return None
    return Target(resource, match["namespace"], match["name"] or "")


def json_response(content: Object, status: int = 200) -> Response:
    return Response(encode(content), status, {"Cache-Control": "no-cache, private"}, reading.JSON)


def error_response(error: KubernetesError) -> Response:
    response = json_response(error.status, error.code)
    retry_after = (error.details or {}).get("retryAfterSeconds")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


class HttpApi:
    """An ASGI app over a store.

    Args:
        store: What is held.
        verbs: What can be done with it.
        access: Who may do it.
        faults: What goes wrong.
        watches: Where open streams are kept.
        gate: Where requests hang.
        log: Where requests are noted.
        clock: For the log.
        bookmark_interval: Seconds between two bookmarks of a watch.
    """

    def __init__(
        self,
        *,
        store: Store,
        verbs: Verbs,
        access: Access,
        faults: Faults,
        watches: Watches,
        gate: Gate,
        log: list[Request],
        clock: Callable[[], float],
        bookmark_interval: float,
    ) -> None:
        self._store = store
        self._verbs = verbs
        self._access = access
        self._faults = faults
        self._watches = watches
        self._gate = gate
        self._log = log
        self._clock = clock
        self._bookmark_interval = bookmark_interval
        self._is_down = False

    def hang_up(self, is_down: bool) -> None:
        """Cut off every request there is, and those to come until this is taken back."""
        self._is_down = is_down
        self._watches.refuse(is_down)
        self._gate.open()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        target = target_of(http.path_params["path"])
        request = self._noted(http, target)
        try:
            # Read to its end, so that what can be received next is the client's leaving.
            body = await http.body()
            response = await self._respond(http, request, target, body)
        except ClientDisconnect:
            return
        except KubernetesError as exc:
            response = error_response(exc)
        request.status = response.status_code
        await response(scope, receive, send)

    def _noted(self, http: HttpRequest, target: Target | None) -> Request:
        query = dict(http.query_params)
        verb, name = http.method.lower(), ""
        if target is not None:
            verb = _VERB_OF.get((http.method, bool(target.name)), verb)
            name = target.name
            if verb == "list" and reading.flag(query, "watch"):
                verb = "watch"
            if not name:
                name = selectors.chosen_name(query.get("fieldSelector", "")) or ""
        request = Request(
            verb=verb,
            resource=target.resource.plural if target else "",
            namespace=target.namespace if target else None,
            name=name,
            query=query,
            path=http.url.path,
            time=self._clock(),
        )
        self._log.append(request)
        return request

    async def _respond(
        self, http: HttpRequest, request: Request, target: Target | None, body: bytes
    ) -> Response:
        if self._is_down:
            return CutOffResponse()
        self._access.authenticate(http.headers.get("authorization", ""))
        fault = self._faults.take(request)
        if fault is not None:
            await self._suffer(fault, http)
            if self._is_down or fault.effect == "cut off":
                return CutOffResponse()
        if target is None:
            return _document_response(http)
        self._access.authorize(request, target.resource)
        if request.verb not in resources.VERBS:
            raise errors.method_not_allowed()
        reading.check_accept(http, (reading.JSON,))
        if len(body) > _MAX_BODY:
            raise errors.too_large(_MAX_BODY)
        return self._answer(http, request, target, body)

    async def _suffer(self, fault: Fault, http: HttpRequest) -> None:
        """Wait as long as the fault says, and raise what it says."""
        await asyncio.sleep(fault.delay)
        if fault.effect == "hang":
            await self._gate.wait(http.receive)
        if fault.error is not None:
            raise fault.error

    def _answer(self, http: HttpRequest, request: Request, target: Target, body: bytes) -> Response:
        if target.resource.is_namespaced and target.namespace is None:
            if target.name:
                raise errors.no_such_path()
            if request.verb not in ("list", "watch"):
                raise errors.method_not_allowed()
        match request.verb:
            case "get":
                obj = self._verbs.get(target.resource, target.namespace, target.name)
                return json_response(obj)
            case "list":
                selector = reading.selector_of(target.namespace, request.query)
                options = reading.list_options(request.query)
                return json_response(self._verbs.list(target.resource, selector, options))
            case "watch":
                return self._watch(target, request.query)
            case "delete":
                return self._delete(target, request.query, body)
            case "deletecollection":
                return self._delete_collection(target, request.query)
            case _:
                return self._write(http, request, target, body)

    def _watch(self, target: Target, query: Mapping[str, str]) -> Response:
        options = reading.watch_options(query, self._store.version, self._bookmark_interval)
        selector = reading.selector_of(target.namespace, query)
        watch = Watch(self._store, target.resource, selector, options)
        return WatchResponse(watch, self._watches)

    def _write(self, http: HttpRequest, request: Request, target: Target, body: bytes) -> Response:
        """A create, an update or a patch."""
        resource, namespace, name = target.resource, target.namespace, target.name
        dry_run = reading.dry_run(request.query)
        kinds = patches.KINDS if request.verb == "patch" else (reading.JSON,)
        kind = reading.content_type(http, kinds)
        content = reading.body_of(resource, body, kind)
        if request.verb == "create":
            made, is_new = self._verbs.create(resource, namespace, content, dry_run=dry_run), True
        elif request.verb == "update":
            made, is_new = self._verbs.update(resource, namespace, name, content, dry_run=dry_run)
        else:
            if kind == patches.APPLY_PATCH:
                reading.check_manager(request.query)
            made, is_new = self._verbs.patch(
                resource, namespace, name, content, kind=kind, dry_run=dry_run
            )
        return json_response(made, 201 if is_new else 200)

    def _delete(self, target: Target, query: Mapping[str, str], body: bytes) -> Response:
        options = reading.body_of(target.resource, body, reading.JSON) if body else {}
        if not isinstance(options, dict):
            raise errors.bad_request("the body of a deletion must be DeleteOptions")
        made, is_gone = self._verbs.delete(
            target.resource,
            target.namespace,
            target.name,
            preconditions=options.get("preconditions"),
            dry_run=reading.dry_run(query) or bool(options.get("dryRun")),
        )
        shows = target.resource.returns_deleted or not is_gone
        return json_response(made if shows else errors.success(target.resource, made))

    def _delete_collection(self, target: Target, query: Mapping[str, str]) -> Response:
        dry_run = reading.dry_run(query)
        selector = reading.selector_of(target.namespace, query)
        options = reading.list_options(query)
        with self._store.lock:
            gone = self._verbs.list(target.resource, selector, options)
            for obj in gone["items"]:
                metadata = obj["metadata"]
                namespace = metadata.get("namespace")
                self._verbs.delete(target.resource, namespace, metadata["name"], dry_run=dry_run)
        return json_response(gone)


def _document_response(http: HttpRequest) -> Response:
    path = http.path_params["path"].strip("/")
    content = documents.document(path)
    if path in ("healthz", "livez", "readyz"):
        content = {}
    if content is None:
        raise errors.no_such_path()
    if http.method not in ("GET", "HEAD"):
        raise errors.method_not_allowed()
    if path in ("healthz", "livez", "readyz"):
        return PlainTextResponse("ok")
    wanted = http.headers.get("accept", "")
    if path == "openapi/v2" and documents.OPENAPI_V2_WANTED in wanted:
        return Response(documents.OPENAPI_V2_PROTOBUF, media_type=documents.OPENAPI_V2_TYPE)
    reading.check_accept(http, (reading.JSON,))
    return json_response(content)
