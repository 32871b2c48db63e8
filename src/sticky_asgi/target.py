"""What path a request asks for, and the target its backend gets: byte for byte the same.

No URL library touches a target. `%2F` stays `%2F`, `..` stays `..`; only a root path or a route's
prefix can be taken off its front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .exceptions import BadRequest

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §9.1
_COMMON_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_IN_TARGET = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
#: What a path may hold as it is (RFC 3986 §3.3), besides letters, digits and `-._~`.
_IN_PATH = "/:@!$&'()*+,;="


def raw_path_of(scope: Mapping[str, Any]) -> bytes:
    """The path as sent, root path included. Quoted from `path` if the server gives no other."""
    raw_path: bytes | None = scope.get("raw_path")
    return quote(scope["path"], safe=_IN_PATH).encode("ascii") if raw_path is None else raw_path


def path_below_root(scope: Mapping[str, Any]) -> str:
    """The decoded path below the application's root path; what routes are matched against."""
    path: str = scope["path"]
    root_path: str | None = scope.get("root_path")
    if root_path and (path == root_path or path.startswith(root_path.rstrip("/") + "/")):
        path = path[len(root_path.rstrip("/")) :]
    return path or "/"


def strip_front(raw_path: bytes, prefix: str) -> bytes:
    """Take a decoded prefix off a raw path that may spell it in escapes.

    Raises:
        BadRequest: The path does not begin with the prefix.
    """
    prefix = prefix.rstrip("/")
    plain = prefix.encode()
    if raw_path.startswith(plain):
        rest = raw_path[len(plain) :]
    else:
        rest = _strip_escaped(raw_path, plain)
    if rest[:1] not in (b"", b"/"):
        raise BadRequest(f"path {raw_path!r} is not below {prefix!r}")
    return rest or b"/"


def _strip_escaped(raw_path: bytes, plain: bytes) -> bytes:
    position = 0
    for byte in plain:
        escape = _ESCAPE.match(raw_path, position)
        found = int(escape[1], 16) if escape else raw_path[position : position + 1]
        if found not in (byte, bytes((byte,))):
            raise BadRequest(f"path {raw_path!r} is not below {plain!r}")
        position += 3 if escape else 1
    return raw_path[position:]


def upstream_target(scope: Mapping[str, Any], *, strip_prefix: str = "") -> bytes:
    """The request target for the backend.

    Raises:
        BadRequest: The target is neither a path nor the `*` of OPTIONS (RFC 9112 §3.2): absolute
            and authority forms are for forward proxies, and so is CONNECT whatever its target.
            Or the method is none.
    """
    raw_path = raw_path_of(scope)
    method: str = scope.get("method", "GET")
    if method not in _COMMON_METHODS:
        if not _METHOD.fullmatch(method):
            raise BadRequest(f"malformed method {method!r}")
        if method == "CONNECT":
            # What follows its 200 is no HTTP any more (RFC 9110 §9.3.6).
            raise BadRequest("CONNECT is for forward proxies")
    if not raw_path.startswith(b"/"):
        if method == "OPTIONS" and raw_path == b"*":
            return raw_path
        raise BadRequest(f"request target {raw_path!r} is not a path")
    if scope.get("root_path") and path_below_root(scope) != scope["path"]:
        raw_path = strip_front(raw_path, scope["root_path"])
    if strip_prefix:
        raw_path = strip_front(raw_path, strip_prefix)
    query: bytes = scope.get("query_string", b"")
    target = raw_path + b"?" + query if query else raw_path
    if target.translate(None, _IN_TARGET):
        raise BadRequest(f"white space or control character in request target {target!r}")
    return target
