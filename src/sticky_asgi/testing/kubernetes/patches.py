"""The four kinds of PATCH. None changes what it is given.

JSON patch is RFC 6902, merge patch RFC 7396; strategic merge patch is Kubernetes' own, a merge
patch that knows which lists are maps. Server-side apply is reduced to a strategic merge: nobody
owns a field here, so an apply takes nothing away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .go_json import clone

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
KINDS = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)


class PatchError(ValueError):
    """The patch is none, or cannot be applied to this object."""


def apply(kind: str, obj: Any, patch: Any, merge_keys: Mapping[str, str]) -> Any:
    """The object with the patch applied.

    Args:
        kind: One of `KINDS`.
        obj: The object.
        patch: The patch, as its JSON is.
        merge_keys: For a strategic merge; see `Resource`.

    Raises:
        PatchError: The patch is no such patch, or does not fit.
    """
    if kind == JSON_PATCH:
        return json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise PatchError("a merge patch must be an object")
    if kind == MERGE_PATCH:
        return merge_patch(obj, patch)
    return strategic_merge(obj, patch, merge_keys)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396 §2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


# JSON patch


def json_patch(obj: Any, operations: Any) -> Any:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch must be a list of operations")
    # Operations change in place what is theirs alone.
    root = {"": clone(obj)}
    for operation in operations:
        if not isinstance(operation, dict) or operation.get("op") not in _OPERATIONS:
            raise PatchError(f"no operation: {operation!r}")
        _OPERATIONS[operation["op"]](root, operation)
    return root[""]


def _pointer(operation: Mapping[str, Any], member: str = "path") -> list[str]:
    """RFC 6901 §4. The root is a member as any other, of an object around it."""
    pointer = operation.get(member)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise PatchError(f"no {member}: {operation!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError(f"no value: {operation!r}")
    return clone(operation["value"])


def _look_up(root: Any, pointer: list[str]) -> Any:
    for part in pointer:
        if isinstance(root, dict) and part in root:
            root = root[part]
        elif isinstance(root, list) and re.fullmatch(r"0|[1-9][0-9]*", part):
            if int(part) >= len(root):
                raise PatchError(f"nothing at {'/'.join(pointer)!r}")
            root = root[int(part)]
        else:
            raise PatchError(f"nothing at {'/'.join(pointer)!r}")
    return root


def _put(root: Any, pointer: list[str], value: Any) -> None:
    parent, last = _look_up(root, pointer[:-1]), pointer[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and last == "-":
        parent.append(value)
    elif isinstance(parent, list) and last.isdecimal() and int(last) <= len(parent):
        parent.insert(int(last), value)
    else:
        raise PatchError(f"nothing can be added at {'/'.join(pointer)!r}")


def _take(root: Any, pointer: list[str]) -> Any:
    value = _look_up(root, pointer)
    parent = _look_up(root, pointer[:-1])
    del parent[int(pointer[-1]) if isinstance(parent, list) else pointer[-1]]
    return value


def _add(root: Any, operation: Mapping[str, Any]) -> None:
    _put(root, _pointer(operation), _value(operation))


def _remove(root: Any, operation: Mapping[str, Any]) -> None:
    _take(root, _pointer(operation))


def _replace(root: Any, operation: Mapping[str, Any]) -> None:
    _take(root, _pointer(operation))
    _add(root, operation)


def _move(root: Any, operation: Mapping[str, Any]) -> None:
    _put(root, _pointer(operation), _take(root, _pointer(operation, "from")))


def _copy(root: Any, operation: Mapping[str, Any]) -> None:
    _put(root, _pointer(operation), clone(_look_up(root, _pointer(operation, "from"))))


def _test(root: Any, operation: Mapping[str, Any]) -> None:
    if _look_up(root, _pointer(operation)) != _value(operation):
        raise PatchError(f"testing value {operation['path']} failed")


_OPERATIONS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


# Strategic merge patch


def strategic_merge(
    target: Any, patch: Mapping[str, Any], merge_keys: Mapping[str, str], path: str = ""
) -> Any:
    """A merge patch in which the items of some lists are merged by a key.

    Directives: `$patch: replace | delete | merge`, `$deleteFromPrimitiveList/...`. What
    `$setElementOrder/...` and `$retainKeys` say follows from the patch itself for these kinds.
    """
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if not key.startswith("$")}
    if patch.get("$patch") == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        where = f"{path}.{key}" if path else key
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = strategic_merge(merged.get(key), value, merge_keys, where)
        elif isinstance(value, list):
            merged[key] = _merge_list(merged.get(key) or [], value, merge_keys, where)
        else:
            merged[key] = value
    return merged


def _merge_list(
    target: list[Any], patch: list[Any], merge_keys: Mapping[str, str], path: str
) -> list[Any]:
    if path == "metadata.finalizers":
        return [*target, *(item for item in patch if item not in target)]
    key = merge_keys.get(path, "uid" if path == "metadata.ownerReferences" else None)
    if key is None:
        return patch
    if any(not isinstance(item, dict) for item in patch):
        raise PatchError(f"the items of {path} must be objects")
    if {"$patch": "replace"} in patch:
        return [item for item in patch if "$patch" not in item]
    merged = list(target)
    for item in patch:
        if key not in item:
            raise PatchError(f"map: {item} does not contain declared merge key: {key}")
        at = next((n for n, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif at is None:
            merged.append(strategic_merge({}, item, merge_keys, path))
        else:
            merged[at] = strategic_merge(merged[at], item, merge_keys, path)
    return merged
