"""What a consistent hash goes by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sticky_asgi.balancers import ConsistentHash
from sticky_asgi.hash_keys import HashKey, client_key, cookie_key, header_key, path_key, query_key
from sticky_asgi.request import RequestInfo


def info(
    *headers: tuple[bytes, bytes], query: bytes = b"", path: str = "/", client: str | None = None
) -> RequestInfo:
    return RequestInfo(headers=list(headers), query_string=query, path=path, client=client)


@pytest.mark.parametrize(
    ("key", "request_info", "expected"),
    [
        pytest.param(client_key(), info(client="2001:db8::1"), b"2001:db8::1", id="client"),
        pytest.param(client_key(), info(), None, id="client-unknown"),
        pytest.param(header_key("X-User"), info((b"x-user", b"ann")), b"ann", id="header"),
        pytest.param(header_key("x-user"), info(), None, id="header-absent"),
        pytest.param(header_key("x-user"), info((b"x-user", b"")), None, id="header-empty"),
        pytest.param(
            header_key("x-user"),
            info((b"x-user", b"1"), (b"x-user", b"2")),
            b"1",
            id="header-first",
        ),
        pytest.param(cookie_key("sid"), info((b"cookie", b"a=1; sid=x=y")), b"x=y", id="cookie"),
        pytest.param(cookie_key("sid"), info((b"cookie", b"SID=1")), None, id="cookie-case"),
        pytest.param(cookie_key("sid"), info(), None, id="cookie-absent"),
        pytest.param(query_key("u"), info(query=b"a=1&u=x&u=y"), b"x", id="query-first"),
        pytest.param(query_key("u"), info(query=b"u=%C3%A9+%2B%26"), "é +&".encode(), id="query"),
        pytest.param(query_key("a b"), info(query=b"a%20b=1"), b"1", id="query-name"),
        pytest.param(query_key("é"), info(query=b"%C3%A9=1"), b"1", id="query-name-utf8"),
        pytest.param(query_key("u"), info(query=b"u=\xff%zz"), b"\xff%zz", id="query-odd"),
        pytest.param(query_key("u"), info(query=b"uu=1&u"), None, id="query-no-value"),
        pytest.param(query_key("u"), info(), None, id="query-absent"),
        pytest.param(path_key(), info(path="/ä"), "/ä".encode(), id="path"),
        pytest.param(path_key(), info(path="/\udc80"), b"/\xed\xb2\x80", id="path-surrogate"),
    ],
)
def test_keys(key: HashKey, request_info: RequestInfo, expected: bytes | None) -> None:
    assert key(request_info) == expected


def test_keys_are_values() -> None:
    assert header_key("x-user") == header_key("x-user")
    assert header_key("x-user") != cookie_key("x-user")
    assert len({client_key(), client_key(), path_key(), query_key("q")}) == 3
    with pytest.raises(AttributeError):
        path_key().label = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: header_key(""), r"header_key: name .* got ''", id="header-empty"),
        pytest.param(lambda: header_key("x user"), r"got 'x user'", id="header-space"),
        pytest.param(lambda: header_key("x-üser"), r"got 'x-üser'", id="header-not-ascii"),
        pytest.param(lambda: header_key(b"x"), r"got b'x'", id="header-bytes"),  # type: ignore[arg-type]
        pytest.param(lambda: cookie_key("a=b"), r"cookie_key: name .* got 'a=b'", id="cookie"),
        pytest.param(lambda: query_key(""), r"query_key: name .* got ''", id="query"),
        pytest.param(
            lambda: ConsistentHash(header_key),  # type: ignore[arg-type]
            r"^key must be what header_key returns; did you mean header_key\(\.\.\.\)\?$",
            id="not-called",
        ),
        pytest.param(lambda: ConsistentHash("x-user"), r"key .* got 'x-user'", id="not-callable"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
