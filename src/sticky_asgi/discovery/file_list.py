"""A list of backends in a file: its form, its keys, and everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ..backend import Backend, Intent
from ..exceptions import DiscoveryError
from ..problems import KeyPath, Problem, blame, dotted, nearest
from ..snapshot import Snapshot

#: Keys that go to `Backend` as they are.
_OF_BACKEND = ("url", "id", "weight", "max_requests", "priority")
_KEYS = (*_OF_BACKEND, "drain", "down", "zone", "metadata")

#: Problems that are told at once; a log line has an end.
_MAX_TOLD = 5
_MAX_LENGTH = 2000

#: Numbers of more bits are nobody's weight, and too large for a float.
_MAX_BITS = 64


def parse(content: bytes, name: str, *, is_json: bool = False) -> Snapshot:
    """Read a list of backends.

    Args:
        content: The file's bytes.
        name: What the file is called in problems.
        is_json: Whether it is JSON; else it is YAML.

    Raises:
        DiscoveryError: With what is wrong: file, line if it is known, key.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _error(name, [(None, (), "is not text in UTF-8")]) from None
    items, problems, line_of = (_read_json if is_json else _read_yaml)(text)
    if problems:
        raise _error(name, problems)
    reader = _Reader()
    for index, item in enumerate(items):
        reader.read(index, item)
    if reader.problems:
        raise _error(name, [(line_of(path), path, text) for path, text in reader.problems])
    return Snapshot(backends=tuple(reader.backends), intents=reader.intents)


_Found = tuple[int | None, KeyPath, str]
_Lines = Callable[[KeyPath], int | None]


def _read_yaml(text: str) -> tuple[list[Any], list[_Found], _Lines]:
    from ..config_yaml import Source

    source = Source(text, None, root=list)
    return source.data or [], [*source.problems], source.line


def _read_json(text: str) -> tuple[list[Any], list[_Found], _Lines]:
    try:
        data = json.loads(
            text, object_pairs_hook=_mapping, parse_constant=_no_number, parse_int=_integer
        )
    except json.JSONDecodeError as exc:
        return [], [(exc.lineno, (), f"not valid JSON: {exc.msg}")], _no_line
    except ValueError as exc:
        return [], [(None, (), str(exc))], _no_line
    except RecursionError:
        return [], [(None, (), "nested too deeply")], _no_line
    if not isinstance(data, list):
        return [], [(1, (), "must be a list of backends")], _no_line
    return data, [], _no_line


def _no_line(path: KeyPath) -> None:
    """Python's JSON parser tells no lines of values."""


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"the key {key!r} is there twice in one mapping")
        mapping[key] = value
    return mapping


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number that can be used")


def _integer(digits: str) -> int:
    # Python, too, refuses to read thousands of them.
    value = int(digits) if len(digits) <= _MAX_BITS else None
    if value is None or value.bit_length() > _MAX_BITS:
        raise ValueError("a number is too large")
    return value


class _Reader:
    """Makes backends of items, and notes what is wrong with them."""

    def __init__(self) -> None:
        self.backends: list[Backend] = []
        self.intents: dict[str, Intent] = {}
        self.problems: list[tuple[KeyPath, str]] = []
        self._first: dict[str, int] = {}

    def read(self, index: int, item: object) -> None:
        """One item of the list."""
        if isinstance(item, str):
            item = {"url": item}
        if not isinstance(item, dict):
            self.problems.append(((index,), "must be a URL, or a mapping with the key 'url'"))
            return
        wrong = list(_wrong_keys(item))
        self.problems += [((index, *path), text) for path, text in wrong]
        if wrong:
            return
        backend = self._make(index, item)
        if backend is None:
            return
        first = self._first.setdefault(backend.id, index)
        if first != index:
            message = f"two backends have the id {backend.id!r}, see [{first}]"
            self.problems.append(((index,), message))
            return
        self.backends.append(backend)
        if item.get("down") or item.get("drain"):
            self.intents[backend.id] = Intent.DOWN if item.get("down") else Intent.DRAINING

    def _make(self, index: int, item: dict[str, Any]) -> Backend | None:
        metadata = dict(item.get("metadata") or {})
        if item.get("zone") is not None:
            metadata["zone"] = item["zone"]
        given = {key: item[key] for key in _OF_BACKEND if key in item}
        try:
            return Backend(**given, metadata=metadata)
        except (ValueError, TypeError) as exc:
            key, message = blame(exc, _OF_BACKEND)
            path: KeyPath = (index,) if key is None or key not in item else (index, key)
            self.problems.append((path, message))
            return None


def _wrong_keys(item: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for key in item:
        if key not in _KEYS:
            yield (key,), f"unknown key{nearest(key, _KEYS)}"
    if "url" not in item:
        yield (), "url is missing"
    for key in ("drain", "down"):
        if not isinstance(item.get(key, False), bool):
            yield (key,), "must be true or false"
    for key in ("url", "id", "zone"):
        if not isinstance(item.get(key), str | None):
            yield (key,), "must be text in quotes"
    if not isinstance(item.get("metadata"), dict | None):
        yield ("metadata",), "must be a mapping"


def _error(name: str, problems: list[_Found]) -> DiscoveryError:
    told = [
        str(Problem(name, line, dotted(path), text)) for line, path, text in problems[:_MAX_TOLD]
    ]
    if len(problems) > _MAX_TOLD:
        told.append(f"and {len(problems) - _MAX_TOLD} more")
    return DiscoveryError(_printable("; ".join(told)[:_MAX_LENGTH]))


def _printable(text: str) -> str:
    """In one line of the log, whatever the keys of the file are."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
