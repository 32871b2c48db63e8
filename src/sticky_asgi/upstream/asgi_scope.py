"""What an application in process is told of a request, of whatever type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

from ..backend import Backend
from .client import UpstreamRequest


def scope_of(
    request: UpstreamRequest, backend: Backend, state: Mapping[str, Any], **own: Any
) -> Scope:
    """The scope as a server makes it. `own` is its type, and what only that type has."""
    raw_path, _, query = request.target.partition(b"?")
    host, _, port = backend.authority.partition(":")
    return {
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": request.scheme,
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [field for field in request.headers if field[0] != b"transfer-encoding"],
        "client": request.client,
        "server": (host, int(port or 80)),
        "state": dict(state),
        **own,
    }
