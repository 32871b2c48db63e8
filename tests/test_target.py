"""`target.py`: paths below a root path, prefixes, and the target a backend gets."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sticky_asgi.exceptions import BadRequest
from sticky_asgi.target import path_below_root, raw_path_of, strip_front, upstream_target


def scope(
    raw_path: bytes | None = b"/",
    *,
    path: str | None = None,
    root_path: str = "",
    method: str = "GET",
    query: bytes = b"",
) -> dict[str, Any]:
    """A scope as a server makes it: the path is the decoded raw path."""
    if path is None:
        assert raw_path is not None
        path = unquote(raw_path.decode("latin-1"))
    made: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": query}
    if raw_path is not None:
        made["raw_path"] = raw_path
    if root_path:
        made["root_path"] = root_path
    return made


#: One character of a path, plain or escaped, in either case.
PIECES = st.one_of(
    st.sampled_from("abz09-._~;,:@!$&'()*+="),
    st.integers(0, 255).map(lambda byte: f"%{byte:02x}"),
    st.integers(0, 255).map(lambda byte: f"%{byte:02X}"),
)
SEGMENTS = st.lists(PIECES, max_size=6).map("".join)
RAW_PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
PREFIXES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/%"), min_size=1, max_size=5),
    min_size=1,
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))


# The target


@given(RAW_PATHS.map(str.encode), st.binary(max_size=20))
def test_rule_9_a_target_is_passed_on_byte_for_byte(raw_path: bytes, query: bytes) -> None:
    assume(not any(byte <= 0x20 or byte == 0x7F for byte in query))
    expected = raw_path + b"?" + query if query else raw_path
    assert upstream_target(scope(raw_path, query=query)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/", b"/", id="root"),
        pytest.param("/a/b.c-d_e~f", b"/a/b.c-d_e~f", id="unreserved"),
        pytest.param("/a;v=1,2:@!$&'()*+=", b"/a;v=1,2:@!$&'()*+=", id="allowed-in-a-path"),
        pytest.param("/ä b", b"/%C3%A4%20b", id="not-ascii"),
        pytest.param("/a?b#c%d", b"/a%3Fb%23c%25d", id="would-mean-something-else"),
        pytest.param("*", b"*", id="asterisk"),
    ],
)
def test_rule_9_a_path_is_quoted_where_the_server_gives_no_raw_path(
    path: str, expected: bytes
) -> None:
    assert raw_path_of(scope(None, path=path)) == expected
    assert raw_path_of(scope(None, path=path) | {"raw_path": None}) == expected


@given(st.text(st.characters(codec="utf-8")).map("/".__add__))
def test_rule_9_a_quoted_path_means_the_same(path: str) -> None:
    target = upstream_target(scope(None, path=path))
    assert unquote(target.decode("ascii")) == path
    assert target.isascii()
    assert not set(target) & set(b"?# \r\n\0")


@pytest.mark.parametrize("raw_path", [pytest.param(b"*", id="raw"), pytest.param(None, id="path")])
def test_rule_10_the_asterisk_is_for_options_only(raw_path: bytes | None) -> None:
    assert upstream_target(scope(raw_path, path="*", method="OPTIONS")) == b"*"
    with pytest.raises(BadRequest):
        upstream_target(scope(raw_path, path="*", method="GET"))


@pytest.mark.parametrize(
    "raw_path",
    [
        pytest.param(b"http://other/x", id="absolute"),
        pytest.param(b"HTTPS://other", id="absolute-https"),
        pytest.param(b"test:443", id="authority"),
        pytest.param(b"x", id="relative"),
        pytest.param(b"", id="empty"),
        pytest.param(b"%2Fx", id="escaped-slash"),
        pytest.param(b"**", id="two-asterisks"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_rule_10_a_target_that_is_no_path_is_refused(raw_path: bytes, method: str) -> None:
    with pytest.raises(BadRequest):
        upstream_target(scope(raw_path, method=method))


@pytest.mark.parametrize("raw_path", [b"/", b"test:80", b"*"])
def test_rule_10_connect_is_refused_whatever_its_target(raw_path: bytes) -> None:
    with pytest.raises(BadRequest):
        upstream_target(scope(raw_path, method="CONNECT"))


@pytest.mark.parametrize("byte", [b" ", b"\r", b"\n", b"\0", b"\t", b"\x7f", b"\x1f"])
def test_rule_12_white_space_and_control_characters_never_reach_a_request_line(
    byte: bytes,
) -> None:
    for bad in (scope(b"/a" + byte + b"b"), scope(query=b"a" + byte + b"b")):
        with pytest.raises(BadRequest):
            upstream_target(bad)


def test_rule_11_a_websocket_scope_has_the_same_mapping() -> None:
    handshake = scope(b"/app/%2Fws", root_path="/app", query=b"a=1") | {"type": "websocket"}
    del handshake["method"]
    assert upstream_target(handshake) == b"/%2Fws?a=1"


# The root path


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        pytest.param("/a", "", "/a", id="no-root"),
        pytest.param("/app/a", "/app", "/a", id="below"),
        pytest.param("/app", "/app", "/", id="the-root-itself"),
        pytest.param("/app/", "/app", "/", id="the-root-with-slash"),
        pytest.param("/app/a", "/app/", "/a", id="root-with-slash"),
        pytest.param("/app//a", "/app", "//a", id="two-slashes-stay"),
        pytest.param("/apple/a", "/app", "/apple/a", id="not-a-whole-segment"),
        pytest.param("/a", "/app", "/a", id="server-gave-the-path-without-it"),
        pytest.param("/a", "/", "/a", id="root-is-a-slash"),
        pytest.param("", "", "/", id="empty"),
    ],
)
def test_path_below_root(path: str, root_path: str, expected: str) -> None:
    assert path_below_root({"path": path, "root_path": root_path}) == expected


@pytest.mark.parametrize(
    ("raw_path", "root_path", "expected"),
    [
        pytest.param(b"/app/%2F/../%e4", "/app", b"/%2F/../%e4", id="rest-untouched"),
        pytest.param(b"/app", "/app", b"/", id="the-root-itself"),
        pytest.param(b"/app/x", "/app/", b"/x", id="root-with-slash"),
        pytest.param(b"/apple/x", "/app", b"/apple/x", id="not-a-whole-segment"),
        pytest.param(b"/x", "/app", b"/x", id="server-gave-the-path-without-it"),
        pytest.param(b"/%61p%70/x", "/app", b"/x", id="escaped-letters"),
        pytest.param(b"/my%20app/x%20y", "/my app", b"/x%20y", id="escaped-space"),
        pytest.param(b"/%C3%a4/x", "/ä", b"/x", id="escaped-in-both-cases"),
    ],
)
def test_rule_10_the_root_path_is_taken_off(
    raw_path: bytes, root_path: str, expected: bytes
) -> None:
    assert upstream_target(scope(raw_path, root_path=root_path)) == expected


def test_rule_10_an_escaped_slash_after_the_root_path_is_refused() -> None:
    """Decoded it is below the root path, but a target that kept it could not begin with `/`."""
    with pytest.raises(BadRequest):
        upstream_target(scope(b"/app%2Fx", root_path="/app"))


def test_rule_10_root_path_and_prefix_are_both_taken_off() -> None:
    made = scope(b"/outer/api/x%2Fy", root_path="/outer", query=b"q")
    assert upstream_target(made, strip_prefix="/api") == b"/x%2Fy?q"


# Prefixes


@given(PREFIXES, RAW_PATHS, st.data())
def test_a_prefix_is_found_however_it_is_spelled(
    prefix: str, rest: str, data: st.DataObject
) -> None:
    """Each byte may stand for itself or be escaped; what follows the prefix stays as it is."""
    spelled = b""
    for byte in prefix.encode():
        plain = quote(bytes((byte,)), safe="/").encode()
        escaped = b"%%%02x" % byte
        spelled += data.draw(st.sampled_from([plain, escaped, escaped.upper()]))
    assert strip_front(spelled + rest.encode(), prefix) == rest.encode()
    assert strip_front(spelled, prefix) == b"/"
    assert strip_front(spelled, prefix + "/") == b"/"


@given(PREFIXES, RAW_PATHS.map(str.encode))
def test_stripping_agrees_with_the_decoded_path_or_refuses(prefix: str, raw_path: bytes) -> None:
    """Never is anything forwarded that the routes would have seen differently."""
    decoded = unquote(raw_path.decode("ascii"))
    try:
        rest = strip_front(raw_path, prefix)
    except BadRequest:
        return
    assert decoded == prefix or decoded.startswith(prefix + "/")
    assert raw_path.endswith(rest) or rest == b"/"


@pytest.mark.parametrize(
    ("raw_path", "prefix"),
    [
        pytest.param(b"/apix", "/api", id="not-a-whole-segment"),
        pytest.param(b"/other", "/api", id="another"),
        pytest.param(b"/ap", "/api", id="shorter"),
        pytest.param(b"/api%2Fx", "/api", id="escaped-slash"),
        pytest.param(b"/api%3Fx", "/api", id="escaped-question-mark"),
        pytest.param(b"/ap%6", "/api", id="half-an-escape"),
        pytest.param(b"/%e4", "/�", id="undecodable"),
    ],
)
def test_a_prefix_that_is_not_there_is_refused(raw_path: bytes, prefix: str) -> None:
    with pytest.raises(BadRequest):
        strip_front(raw_path, prefix)


@pytest.mark.parametrize("method", ["", "GET /x HTTP/1.1\r\n\r\nGET", "G T", "GÉT"])
def test_a_method_must_be_a_token(method: str) -> None:
    with pytest.raises(BadRequest):
        upstream_target({"path": "/", "raw_path": b"/", "method": method})
