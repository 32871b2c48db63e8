"""What is wrong with a configuration, besides its form: each problem with the path to its key."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import TLS, Backend
from .certificates import wrong_certificate, wrong_chain
from .config_model import Document
from .config_problems import problems_of
from .config_yaml import Source
from .problems import KeyPath, nearest


def wrong_values(data: Any) -> Iterator[tuple[KeyPath, str]]:
    """What the models find wrong.

    They judge keys that belong together only when each is fine by itself, so what was found is
    taken out and the rest judged again.
    """
    data = copy.deepcopy(data)
    found: set[KeyPath] = set()
    while True:
        try:
            Document.model_validate(data)
            return
        except ValidationError as exc:
            problems = list(problems_of(exc, Document, data))
        # What is taken out may leave a hole, which is no mistake of its own.
        news = [(path, text) for path, text in problems if not _is_above(path, found)]
        yield from news
        found |= {path for path, _ in news}
        if not [path for path, _ in problems if _take_out(data, path)]:
            return


def _is_above(path: KeyPath, others: set[KeyPath]) -> bool:
    return any(other[: len(path)] == path for other in others)


def _take_out(data: Any, path: KeyPath) -> bool:
    """Remove a key; items of lists stay, lest the others get new numbers."""
    for part in path[:-1]:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return False
    if path and isinstance(data, dict) and path[-1] in data:
        del data[path[-1]]
        return True
    return False


def wrong_references(source: Source) -> Iterator[tuple[KeyPath, str]]:
    """What only shows in the file as a whole; looked up in what it says, wrong or not."""
    yield from twice(source.data, source)
    pools, routes = source.data.get("pools"), source.data.get("routes")
    finds, has_none = source.data.get("discovery") is not None, pools in (None, {})
    if has_none and not finds:
        missing = "pools" not in source.data
        yield ("pools",), "is missing" if missing else "must not be empty"
    names = list(pools) if isinstance(pools, dict) else []
    if len(names) > 1 and routes is None:
        path: KeyPath = ("routes",) if "routes" in source.data else ()
        yield path, "routes is missing: with several pools it says which paths go where"
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        pool = route.get("pool") if isinstance(route, dict) else None
        if not isinstance(pool, str) or pool in names:
            continue
        if names:
            yield ("routes", index, "pool"), f"there is no pool {pool!r}{nearest(pool, names)}"
        elif has_none and finds:
            # Those that are found have routes of their own.
            yield ("routes", index, "pool"), f"there is no pool {pool!r} in this file"


def twice(data: Any, source: Source | None) -> Iterator[tuple[KeyPath, str]]:
    """Backends of one id in one pool."""
    pools = data.get("pools")
    for name, pool in pools.items() if isinstance(pools, dict) else ():
        backends = pool.get("backends") if isinstance(pool, dict) else None
        first: dict[str, KeyPath] = {}
        for index, item in enumerate(backends if isinstance(backends, list) else ()):
            path = ("pools", name, "backends", index)
            backend_id = _id_of(item)
            if backend_id is None:
                continue
            if backend_id in first:
                where = "" if source is None else f", see line {source.line(first[backend_id])}"
                yield path, f"two backends have the id {backend_id!r}{where}"
            first.setdefault(backend_id, path)


def _id_of(item: object) -> str | None:
    values: dict[str, Any] = item if isinstance(item, dict) else {"url": item}
    try:
        return Backend(values["url"], id=values.get("id")).id
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def wrong_objects(document: Document, folder: Path) -> Iterator[tuple[KeyPath, str]]:
    """What shows when everything is put together; relative paths start at the folder."""
    found = document.discovery
    tls: dict[KeyPath, TLS | None] = {}
    if found is not None and found.pool.tls is not None:
        tls["discovery", "pool"] = found.pool.tls.build(folder)
    for name, section in document.pools.items():
        try:
            tls["pools", name] = section.make(name, ["-" * 16], folder).tls
        except (ValueError, ImportError) as exc:
            yield ("pools", name), str(exc)
    for path, used in tls.items():
        for key, text in () if used is None else _wrong_files(used):
            yield (*path, "tls", key), text


def _wrong_files(tls: TLS) -> Iterator[tuple[str, str]]:
    """Keys of the files that cannot be used, and why."""
    if tls.ca_file is not None and (reason := wrong_certificate(tls.ca_file)):
        yield "ca_file", f"{str(tls.ca_file)!r}: {reason}"
    if tls.client_cert is not None and (wrong := wrong_chain(tls.client_cert, tls.client_key)):
        yield ("client_key" if wrong.in_key else "client_cert"), wrong.message
