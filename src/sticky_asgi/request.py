"""What the policies may know of a request: plain values, read once from the ASGI scope.

This file only reads. Headers are rewritten in `headers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

RawHeader: TypeAlias = tuple[bytes, bytes]
RawHeaders: TypeAlias = list[RawHeader]


class RequestInfo:
    """One request, as balancers, affinities and routes see it.

    Args:
        method: Request method, upper case as sent; `"GET"` for a WebSocket handshake.
        path: Decoded path below the application's root path.
        raw_path: The path as it was sent: percent-encoded, root path included.
        query_string: Raw query without the `?`.
        headers: Raw header list: lower-case names, order and duplicates kept. To be read only.
        scheme: `http` or `https`: the one the visitor used, where a trusted proxy says so.
        host: The Host header, or None where the request has none.
        client: The visitor's address, where a trusted proxy says so; None when it is unknown.
    """

    __slots__ = (
        "client",
        "headers",
        "host",
        "method",
        "path",
        "query_string",
        "raw_path",
        "scheme",
    )

    def __init__(
        self,
        *,
        method: str = "GET",
        path: str = "/",
        raw_path: bytes = b"/",
        query_string: bytes = b"",
        headers: RawHeaders | None = None,
        scheme: str = "http",
        host: bytes | None = None,
        client: str | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query_string = query_string
        self.headers = [] if headers is None else headers
        self.scheme = scheme
        self.host = host
        self.client = client

    @property
    def is_secure(self) -> bool:
        """Whether the visitor came by TLS."""
        return self.scheme == "https"

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def cookie_fields(self) -> Sequence[bytes]:
        """The values of the Cookie fields, of which HTTP/1.1 allows one."""
        return [value for key, value in self.headers if key == b"cookie"]

    def cookies(self, name: bytes) -> list[bytes]:
        """Every value that the Cookie headers carry under a name, in the order sent.

        RFC 6265 §5.4 lets a client send several of one name (of other paths or domains).
        """
        prefix = name + b"="
        found: list[bytes] = []
        for field in self.cookie_fields():
            for pair in field.split(b";"):
                pair = pair.strip(b" \t")
                if pair.startswith(prefix):
                    found.append(pair[len(prefix) :])
        return found

    def __repr__(self) -> str:
        return f"<RequestInfo {self.method} {self.path!r}>"
