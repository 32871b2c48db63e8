"""The client's half of a handshake, without a connection. Lies are told in
`test_http1_websocket.py`.
"""

from __future__ import annotations

import base64

import pytest

from sticky_asgi.upstream import UpstreamRequest, WebSocketEnded
from sticky_asgi.upstream.websocket import Handshake, handshake_headers, offered_subprotocols


def test_the_accept_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6455 §1.3 works an example."""
    key = b"dGhlIHNhbXBsZSBub25jZQ=="
    monkeypatch.setattr("secrets.token_bytes", lambda size: base64.b64decode(key))
    handshake = Handshake(UpstreamRequest("GET", b"/", []))
    assert (b"sec-websocket-key", key) in handshake.request.headers
    accept = (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert handshake.check("backend a", [accept]) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([b""], [], id="blank"),
        pytest.param([b"a"], ["a"], id="one"),
        pytest.param([b"b, a ,\tc"], ["b", "a", "c"], id="list"),
        pytest.param([b"b,,", b"a"], ["b", "a"], id="several-fields"),
        pytest.param([b"A, a"], ["A", "a"], id="case"),
    ],
)
def test_what_is_offered(values: list[bytes], expected: list[str]) -> None:
    headers = [(b"sec-websocket-protocol", value) for value in values]
    assert offered_subprotocols([(b"x", b"y"), *headers]) == expected


def test_what_concerns_the_connection_alone() -> None:
    headers = [
        (b"set-cookie", b"a=1"), (b"sec-websocket-accept", b"x"), (b"sec-websocket-other", b"x"),
        (b"content-length", b"0"), (b"x-sec-websocket", b"x"), (b"set-cookie", b"b=2"),
    ]  # fmt: skip
    assert handshake_headers(headers) == [headers[0], headers[4], headers[5]]


def test_how_it_ended_can_be_read() -> None:
    assert str(WebSocketEnded(1000)) == "closed with 1000"
    assert str(WebSocketEnded(4001, "so long")) == "closed with 4001 so long"
