"""What a consistent hash goes by: keys read from a request.

A key is a callable from `RequestInfo` to bytes, or to None when the request does not carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from .checks import is_token
from .request import RequestInfo

#: Reads from a request what decides its backend; None when the request does not carry it.
HashKey: TypeAlias = Callable[[RequestInfo], bytes | None]


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    """A hash key that knows the call it was made by, which is its identity too."""

    label: str
    read: HashKey = field(compare=False)

    def __call__(self, request: RequestInfo) -> bytes | None:
        # An empty value tells nobody apart: like nginx's `hash`, count it as absent.
        return self.read(request) or None

    def __repr__(self) -> str:
        return self.label


def client_key() -> HashKey:
    """Hash by the visitor's address, as HAProxy's `balance source` does.

    Everybody behind one NAT lands on one backend, and a visitor whose address changes moves.
    """

    def read(request: RequestInfo) -> bytes | None:
        return None if request.client is None else request.client.encode("utf-8", "replace")

    return _Key("client_key()", read)


def header_key(name: str) -> HashKey:
    """Hash by a request header, as HAProxy's `balance hdr(name)` does.

    Args:
        name: The header's name, in any case. Of several such headers the first counts.

    Raises:
        ValueError: A name that no header can have.
    """
    lower = _token("header_key", name).lower()
    return _Key(f"header_key({name!r})", lambda request: request.header(lower))


def cookie_key(name: str) -> HashKey:
    """Hash by a cookie that the application sets, such as its session's.

    A visitor who does not have it yet gets a random backend, and may move when the cookie is set.

    Args:
        name: The cookie's name; its case counts. Of several such cookies the first counts.

    Raises:
        ValueError: A name that no cookie can have.
    """
    wanted = _token("cookie_key", name)
    return _Key(f"cookie_key({name!r})", lambda request: next(iter(request.cookies(wanted)), None))


def query_key(name: str) -> HashKey:
    """Hash by a parameter of the query, as HAProxy's `balance url_param` does.

    Args:
        name: The parameter's decoded name; its case counts. Names and values are decoded as forms
            are (`%2F`, `+`), and of several such parameters the first counts.

    Raises:
        ValueError: An empty name.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"query_key: name must be a string that is not empty, got {name!r}")
    wanted = name.encode("utf-8", "surrogateescape")

    def read(request: RequestInfo) -> bytes | None:
        for pair in request.query_string.split(b"&"):
            key, _, value = pair.partition(b"=")
            if _unquote(key) == wanted:
                return _unquote(value)
        return None

    return _Key(f"query_key({name!r})", read)


def path_key() -> HashKey:
    """Hash by the decoded path without the query, so each backend's cache holds its own part."""
    # Servers that decode a path leniently may leave lone surrogates in it.
    return _Key("path_key()", lambda request: request.path.encode("utf-8", "surrogatepass"))


def _unquote(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"+", b" "))


def _token(function: str, name: str) -> bytes:
    # RFC 6265 §4.1.1 takes the same for cookie names.
    if not is_token(name):
        raise ValueError(f"{function}: name must be an HTTP token, got {name!r}")
    return name.encode("ascii")
