"""The verbs on objects: what a create, an update or a list does. Neither HTTP nor waiting.

Source: the Kubernetes API conventions and `apiserver/pkg/registry/generic/registry/store.go`.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import defaults, errors, patches, validation
from .go_json import clone
from .resources import NAMESPACES, RESOURCES, Object, Resource
from .selectors import Selector
from .store import Key, Store

#: What generated names end in, so that no words come out of it.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """What a list is asked for.

    Attributes:
        limit: Items per page; 0 for all.
        continue_token: Where the last page ended; "" for the first.
        version: "", "0", or a version that the list must not be older than.
        match: `NotOlderThan` or `Exact`; "" for the former.
    """

    limit: int = 0
    continue_token: str = ""
    version: str = ""
    match: str = ""


class Verbs:
    """The verbs on a store. Objects that are given are copied; those that are returned are shared
    with the store and must not be changed.

    Args:
        store: Where the objects are.
        clock: What time it is, in seconds since the epoch, for `creationTimestamp`.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        obj = self._store.get(resource, (namespace or "", name))
        if obj is None:
            raise errors.not_found(resource, name)
        return obj

    def create(
        self, resource: Resource, namespace: str | None, obj: Any, *, dry_run: bool = False
    ) -> Object:
        obj = _in_order(resource, validation.decode(resource, clone(obj)))
        metadata = obj["metadata"]
        _settle_namespace(resource, namespace, metadata)
        if metadata.get("resourceVersion"):
            raise errors.KubernetesError(
                500, "resourceVersion should not be set on objects to be created"
            )
        if not metadata.get("name"):
            _generate_name(resource, metadata)
        key = _key(metadata)
        with self._store.lock:
            if resource.is_namespaced and self._store.get(NAMESPACES, ("", key[0])) is None:
                raise errors.not_found(NAMESPACES, key[0])
            if self._store.get(resource, key) is not None:
                raise errors.already_exists(resource, key[1])
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = self._now()
            metadata.pop("deletionTimestamp", None)
            if resource.counts_generations:
                metadata["generation"] = 1
            self._complete(resource, obj, None)
            return obj if dry_run else self._store.put(resource, key, obj)

    def update(
        self, resource: Resource, namespace: str | None, name: str, obj: Any, *, dry_run: bool
    ) -> tuple[Object, bool]:
        """Put an object in the place of another. Returns it, and whether it is new there."""
        obj = _in_order(resource, validation.decode(resource, clone(obj)))
        metadata = obj["metadata"]
        if metadata.get("name", "") != name:
            raise errors.bad_request(
                f"the name of the object ({metadata.get('name', '')}) does not match the name on "
                f"the URL ({name})"
            )
        _settle_namespace(resource, namespace, metadata)
        with self._store.lock:
            old = self._store.get(resource, _key(metadata))
            if old is None:
                if not resource.creates_on_update or metadata.get("resourceVersion"):
                    raise errors.not_found(resource, name)
                return self.create(resource, namespace, obj, dry_run=dry_run), True
            self._succeed(resource, obj, old)
            return self._write(resource, obj, old, dry_run=dry_run), False

    def _succeed(self, resource: Resource, obj: Object, old: Object) -> None:
        """Check that the object may follow the old one, and hand down what only servers set."""
        metadata, before = obj["metadata"], old["metadata"]
        if metadata.get("uid", before["uid"]) != before["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {metadata['uid']}, "
                f"UID in object meta: {before['uid']}"
            )
            raise errors.conflict(resource, before["name"], why)
        if metadata.get("resourceVersion", "") not in ("", before["resourceVersion"]):
            raise errors.modified(resource, before["name"])
        for key in ("uid", "creationTimestamp", "generation", "resourceVersion"):
            if key in before:
                metadata[key] = before[key]
        metadata.pop("deletionTimestamp", None)
        if "deletionTimestamp" in before:
            metadata["deletionTimestamp"] = before["deletionTimestamp"]
        self._complete(resource, obj, old)

    def _write(self, resource: Resource, obj: Object, old: Object, *, dry_run: bool) -> Object:
        if obj == old:
            return old  # A write that changes nothing is none: no version, no event.
        metadata = obj["metadata"]
        if resource.counts_generations and _content(obj) != _content(old):
            metadata["generation"] = old["metadata"]["generation"] + 1
        if dry_run:
            return obj
        written = self._store.put(resource, _key(metadata), obj)
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            return self._store.put(resource, _key(metadata), None)
        return written

    def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: str,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """Change an object by a patch. Returns it, and whether it is new (by an apply)."""
        with self._store.lock:
            old = self._store.get(resource, (namespace or "", name))
            if old is None and kind == patches.APPLY_PATCH:
                return self.create(resource, namespace, patch, dry_run=dry_run), True
            if old is None:
                raise errors.not_found(resource, name)
            try:
                new = patches.apply(kind, old, clone(patch), dict(resource.merge_keys))
            except patches.PatchError as exc:
                raise errors.KubernetesError(422, str(exc), details={}) from None
            return self.update(resource, namespace, name, new, dry_run=dry_run)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        preconditions: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """Delete an object. Returns it, and whether it is gone: one with finalizers is not."""
        with self._store.lock:
            old = self.get(resource, namespace, name)
            _check_preconditions(resource, old, preconditions or {})
            key = _key(old["metadata"])
            if dry_run:
                return old, True
            if old["metadata"].get("finalizers"):
                if "deletionTimestamp" in old["metadata"]:
                    return old, False
                metadata = old["metadata"] | {"deletionTimestamp": self._now()}
                return self._store.put(resource, key, old | {"metadata": metadata}), False
            if resource is NAMESPACES:
                self._empty(name)
            return self._store.put(resource, key, None), True

    def _empty(self, namespace: str) -> None:
        for resource in RESOURCES:
            if resource.is_namespaced:
                for key, _ in self._store.items(resource, Selector(namespace=namespace)):
                    self._store.put(resource, key, None)

    def list(self, resource: Resource, selector: Selector, options: ListOptions) -> Object:
        """A list as the server answers with; its items have neither `kind` nor `apiVersion`."""
        with self._store.lock:
            version, after = self._place(options)
            try:
                items = self._store.items(resource, selector, version)
            except errors.KubernetesError as exc:
                if exc.code != 410 or after is None:
                    raise
                raise errors.expired_continue(_token(self._store.version, after)) from None
            shown = self._store.version if version is None else version
        if after is not None:
            items = [item for item in items if item[0] > after]
        metadata: dict[str, Any] = {"resourceVersion": str(shown)}
        if options.limit and len(items) > options.limit:
            metadata["continue"] = _token(shown, items[options.limit - 1][0])
            if selector.is_all:
                metadata["remainingItemCount"] = len(items) - options.limit
            items = items[: options.limit]
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": [_without_type(obj) for _, obj in items],
        }

    def _place(self, options: ListOptions) -> tuple[int | None, Key | None]:
        """As of which version (None: now), and behind which key, a list begins."""
        if options.continue_token:
            if options.version not in ("", "0"):
                raise errors.bad_request(
                    "specifying resource version is not allowed when using continue"
                )
            return _read_token(options.continue_token)
        if options.match and options.version == "":
            raise errors.KubernetesError(
                422,
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )
        if options.match not in ("", "NotOlderThan", "Exact"):
            raise errors.KubernetesError(
                422,
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Unsupported value: '
                f'"{options.match}": supported values: "Exact", "NotOlderThan", ""',
            )
        version = parse_version(options.version)
        if options.match == "Exact":
            if not version:
                raise errors.KubernetesError(
                    422,
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                    'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
                )
            return version, None
        if version > self._store.version:
            raise errors.too_new(version, self._store.version)
        return None, None

    def _complete(self, resource: Resource, obj: Object, old: Object | None) -> None:
        defaults.fill_in(resource, obj, old, self._store.version)
        problems = validation.problems_of(resource, obj, old)
        if problems:
            raise errors.invalid(resource, obj["metadata"]["name"], problems)

    def _now(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))


def parse_version(text: str) -> int:
    """A `resourceVersion` of a request; "" is 0."""
    if text and not text.isdecimal():
        raise errors.KubernetesError(
            422,
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": '
            "invalid syntax",
        )
    return int(text or 0)


def _in_order(resource: Resource, obj: Object) -> Object:
    """With the fields first that the server writes first, and an object to each pointer."""
    metadata = {key: value for key, value in obj["metadata"].items() if value is not None}
    first = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return first | {key: value for key, value in obj.items() if key not in first}


def _without_type(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}


def _content(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _key(metadata: Mapping[str, Any]) -> Key:
    return metadata.get("namespace", ""), metadata["name"]


def _settle_namespace(resource: Resource, namespace: str | None, metadata: dict[str, Any]) -> None:
    if not resource.is_namespaced:
        metadata.pop("namespace", None)
        return
    wanted = namespace or ""
    if metadata.setdefault("namespace", wanted) != wanted:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def _generate_name(resource: Resource, metadata: dict[str, Any]) -> None:
    prefix = metadata.get("generateName")
    if not prefix:
        problem = errors.required("metadata.name", "name or generateName is required")
        raise errors.invalid(resource, "", [problem])
    metadata["name"] = prefix[:58] + "".join(random.choices(_LETTERS, k=5))


def _check_preconditions(resource: Resource, obj: Object, wanted: Mapping[str, Any]) -> None:
    metadata = obj["metadata"]
    for key, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(key) not in (None, metadata[key]):
            why = (
                f"Precondition failed: {word} in precondition: {wanted[key]}, "
                f"{word} in object meta: {metadata[key]}"
            )
            raise errors.conflict(resource, metadata["name"], why)


def _token(version: int, last: Key) -> str:
    start = {"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(last)}
    return base64.urlsafe_b64encode(json.dumps(start).encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, Key]:
    try:
        start = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = start["start"].partition("/")
        return int(start["rv"]), (namespace, name)
    except (binascii.Error, AttributeError, KeyError, TypeError, ValueError):
        raise errors.bad_request(f"continue key is not valid: {token}") from None
