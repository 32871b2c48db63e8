"""What a request says by its query, its headers and its body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request as HttpRequest

from . import errors, selectors
from .errors import KubernetesError
from .resources import Resource
from .verbs import ListOptions, parse_version
from .watch import WatchOptions

JSON = "application/json"


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter, as the API server reads it: anything but `0` and `false` is true."""
    return name in query and query[name].lower() not in ("0", "false")


def check_accept(http: HttpRequest, accepted: tuple[str, ...]) -> None:
    """Raises KubernetesError, 406.

    Other forms of an object, `as=Table` among them, are not had here; clients that ask for them
    also take the plain one.
    """
    ranges = [part.strip() for part in http.headers.get("accept", "").split(",") if part.strip()]
    for media_range in ranges:
        kind, *parameters = [part.strip() for part in media_range.split(";")]
        is_plain = not any(parameter.startswith("as=") for parameter in parameters)
        if kind in (*accepted, "application/*", "*/*") and is_plain:
            return
    if ranges:
        raise errors.not_acceptable(accepted)


def content_type(http: HttpRequest, accepted: tuple[str, ...]) -> str:
    """Raises KubernetesError, 415."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip()
    if not kind and JSON in accepted:
        return JSON
    if kind not in accepted:
        raise errors.unsupported_media_type(accepted)
    return kind


def body_of(resource: Resource, body: bytes, kind: str) -> Any:
    """Parse a body. YAML is read as far as it is JSON, which is what kubectl sends as such."""
    try:
        return json.loads(body)
    except ValueError as exc:
        raise errors.bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): "
            f"couldn't get version/kind; {kind} parse error: {exc}"
        ) from None


def dry_run(query: Mapping[str, str]) -> bool:
    """Whether nothing is to be written. Raises KubernetesError, 422."""
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise KubernetesError(422, f'dryRun: Unsupported value: "{value}": supported values: "All"')
    return value == "All"


def check_manager(query: Mapping[str, str]) -> None:
    """Raises KubernetesError, 422, unless an apply says who it is by."""
    if not query.get("fieldManager"):
        raise KubernetesError(
            422,
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required '
            "for apply patch",
        )


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if re.fullmatch(r"-?[0-9]+", text) is None:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def selector_of(namespace: str | None, query: Mapping[str, str]) -> selectors.Selector:
    """Which objects a list or a watch is of."""
    return selectors.parse(
        namespace, query.get("labelSelector", ""), query.get("fieldSelector", "")
    )


def list_options(query: Mapping[str, str]) -> ListOptions:
    """Raises KubernetesError, 400."""
    return ListOptions(
        limit=max(_number(query, "limit"), 0),
        continue_token=query.get("continue", ""),
        version=query.get("resourceVersion", ""),
        match=query.get("resourceVersionMatch", ""),
    )


def watch_options(query: Mapping[str, str], newest: int, bookmark_interval: float) -> WatchOptions:
    """Raises KubernetesError, 400 or 422.

    Args:
        query: The query.
        newest: The newest version, from which a watch goes on that wants nothing older.
        bookmark_interval: Seconds between two bookmarks.
    """
    version = parse_version(query.get("resourceVersion", ""))
    initial = query.get("sendInitialEvents")
    match = query.get("resourceVersionMatch", "")
    if (match == "NotOlderThan") is (initial is None):
        raise KubernetesError(
            422,
            'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
            "for a watch, sendInitialEvents and resourceVersionMatch=NotOlderThan go together",
        )
    wants_all = flag(query, "sendInitialEvents") if initial is not None else version == 0
    timeout = _number(query, "timeoutSeconds")
    return WatchOptions(
        version=None if wants_all else version or newest,
        bookmarks=flag(query, "allowWatchBookmarks"),
        marks_initial=flag(query, "sendInitialEvents"),
        timeout=timeout if timeout > 0 else None,
        bookmark_interval=bookmark_interval,
    )
