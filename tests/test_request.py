"""What the policies read of a request."""

from __future__ import annotations

import pytest

from sticky_asgi.request import RequestInfo


def test_defaults() -> None:
    request = RequestInfo()
    assert (request.method, request.path, request.raw_path) == ("GET", "/", b"/")
    assert (request.query_string, request.headers) == (b"", [])
    assert (request.scheme, request.host, request.client) == ("http", None, None)
    assert repr(request) == "<RequestInfo GET '/'>"


def test_headers_are_not_shared() -> None:
    RequestInfo().headers.append((b"a", b"b"))
    assert RequestInfo().headers == []


@pytest.mark.parametrize(
    ("scheme", "secure"),
    [pytest.param("https", True, id="https"), pytest.param("http", False, id="http")],
)
def test_is_secure(scheme: str, secure: bool) -> None:
    assert RequestInfo(scheme=scheme).is_secure is secure


def test_header_is_the_first_of_its_name() -> None:
    request = RequestInfo(headers=[(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert request.header(b"a") == b"1"
    assert request.header(b"c") is None


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        pytest.param([], [], id="no-header"),
        pytest.param([b"other=1"], [], id="other-name"),
        pytest.param([b"id=1"], [b"1"], id="alone"),
        pytest.param([b"x=0; id=1; y=2"], [b"1"], id="among-others"),
        pytest.param([b"id=1; id=2", b"id=3"], [b"1", b"2", b"3"], id="several"),
        pytest.param([b"xid=1; idx=2; id2=3"], [], id="names-that-contain-it"),
        pytest.param([b"x=id=1"], [], id="in-a-value"),
        pytest.param([b"id="], [b""], id="empty"),
        pytest.param([b"id=a=b="], [b"a=b="], id="equals-signs"),
        pytest.param([b"a;id=1;\tid=2 ;;"], [b"1", b"2"], id="blanks-and-litter"),
        pytest.param([b"id=\xff\x00"], [b"\xff\x00"], id="any-bytes"),
    ],
)
def test_cookies(cookies: list[bytes], expected: list[bytes]) -> None:
    headers = [(b"cookie", cookie) for cookie in cookies]
    assert RequestInfo(headers=[(b"x", b"id=9"), *headers]).cookies(b"id") == expected
