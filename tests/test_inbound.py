"""What is remembered of header sections, and what must never come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sticky_asgi import Backend, Gateway, HeadTooLarge, Pool, SignedCookie
from sticky_asgi.affinity import AffinityStatus, Resolution
from sticky_asgi.exceptions import BadRequest
from sticky_asgi.inbound import HeadReader, InboundRequest, handshake_scope
from sticky_asgi.request import RawHeaders, RequestInfo
from sticky_asgi.routes import Route
from sticky_asgi.trusted_proxies import TrustedProxies

SECRET = "a secret of sixteen bytes"
HOST = (b"host", b"shop.test")
BACKEND = Backend("http://127.0.0.1:9")


def scope_of(*headers: tuple[bytes, bytes], client: str = "192.0.2.1", **more: Any) -> Any:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "client": (client, 1234),
        # Fresh objects each time, as a server makes them.
        "headers": [(bytes(bytearray(n)), bytes(bytearray(v))) for n, v in (HOST, *headers)],
        **more,
    }


def pool_of(**options: Any) -> Pool:
    return Pool("shop", [BACKEND], **options)


def reader_of(pool: Pool, *trusted: str, max_head: int = 65536) -> HeadReader:
    return HeadReader(pool, TrustedProxies(trusted), max_head, False)


def sent(reader: HeadReader, scope: Any) -> dict[bytes, bytes]:
    """What the backend gets."""
    request = InboundRequest(scope, Route(reader.pool), reader)
    upstream = request.for_backend(BACKEND, None, AffinityStatus.NEW)
    if upstream.lines is not None:
        assert upstream.lines == b"".join(n + b": " + v + b"\r\n" for n, v in upstream.headers)
    return dict(upstream.headers)


def test_requests_that_read_alike_are_read_twice_and_never_again() -> None:
    reader = reader_of(pool_of())
    first, second, third, fourth = (reader.read(scope_of()) for _ in range(4))
    assert first is not second
    assert second is third
    assert third is fourth


def test_what_comes_once_is_not_held() -> None:
    reader = reader_of(pool_of())
    for number in range(20000):
        reader.read(scope_of((b"x-request-id", b"%d" % number)))
    assert not len(reader._memo)
    assert len(reader._memo._met) <= 8192


@pytest.mark.parametrize(
    ("this", "other"),
    [
        pytest.param(scope_of(client="192.0.2.2"), scope_of(), id="address"),
        pytest.param(scope_of(scheme="https"), scope_of(), id="scheme"),
        pytest.param(scope_of(http_version="1.0"), scope_of(), id="version"),
        pytest.param(scope_of((b"a", b"bc")), scope_of((b"ab", b"c")), id="fields"),
        pytest.param(
            scope_of((b"a", b"1"), (b"b", b"2")), scope_of((b"b", b"2"), (b"a", b"1")), id="order"
        ),
        pytest.param(scope_of((b"cookie", b"a=1")), scope_of((b"cookie", b"a=2")), id="cookie"),
    ],
)
def test_whatever_the_answer_depends_on_tells_requests_apart(this: Any, other: Any) -> None:
    both, alone = reader_of(pool_of()), reader_of(pool_of())
    for _ in range(2):
        both.read(this)
        alone.read(other)
    assert both.read(other)._replace(head=alone.read(other).head) == alone.read(other)
    assert both.read(this) is not both.read(other)


def test_everyone_is_forwarded_for_themselves() -> None:
    reader = reader_of(pool_of())
    for address in ("192.0.2.1", "192.0.2.2") * 3:
        assert sent(reader, scope_of(client=address))[b"x-forwarded-for"] == address.encode()


def test_adopted_policies_hold_for_requests_that_were_seen_before() -> None:
    pool = pool_of(affinity=SignedCookie(SECRET, name="old"))
    reader = reader_of(pool)
    cookies = scope_of((b"cookie", b"old=1; new=2"))
    for _ in range(3):
        assert sent(reader, cookies)[b"cookie"] == b"new=2"
    pool.adopt(pool_of(affinity=SignedCookie(SECRET, name="new"), host="backend"))
    after = sent(reader, cookies)
    assert (after[b"cookie"], after[b"host"]) == (b"old=1", b"127.0.0.1:9")


def change_trust(gateway: Gateway) -> None:
    gateway.trusted_proxies = TrustedProxies(["192.0.2.1"])


def change_limit(gateway: Gateway) -> None:
    gateway.max_head = 10


def change_forwarded(gateway: Gateway) -> None:
    gateway.forwarded = True


@pytest.mark.parametrize("change", [change_trust, change_limit, change_forwarded])
def test_changed_settings_hold_at_once(change: Callable[[Gateway], None]) -> None:
    pool = pool_of()
    gateway = Gateway({"/": pool})
    scope = scope_of((b"x-forwarded-for", b"198.51.100.7"))
    for _ in range(3):
        before = sent(gateway.reader(pool), scope)
    assert before[b"x-forwarded-for"] == b"192.0.2.1"
    assert gateway.reader(pool) is gateway.reader(pool)
    change(gateway)
    if change is change_limit:
        with pytest.raises(HeadTooLarge):
            sent(gateway.reader(pool), scope)
    else:
        assert sent(gateway.reader(pool), scope) != before


def many(count: int, size: int = 1) -> Iterable[tuple[bytes, bytes]]:
    return [(b"x-%d" % number, b"v" * size) for number in range(count)]


@pytest.mark.parametrize(
    ("headers", "is_remembered"),
    [
        pytest.param(many(10), True, id="usual"),
        pytest.param(many(63), True, id="most"),
        pytest.param(many(64), False, id="more-fields"),
        pytest.param(many(3, size=1300), True, id="large"),
        pytest.param(many(3, size=1400), False, id="larger"),
    ],
)
def test_large_sections_are_not_remembered(headers: RawHeaders, is_remembered: bool) -> None:
    reader = reader_of(pool_of())
    _, second, third = (reader.read(scope_of(*headers)) for _ in range(3))
    assert (second is third) == is_remembered


def test_the_number_of_remembered_sections_is_bounded() -> None:
    reader = reader_of(pool_of())
    for number in range(3000):
        for _ in range(2):
            reader.read(scope_of((b"x-request-id", b"%d" % number)))
        assert 0 < len(reader._memo) <= 1024


@pytest.mark.parametrize("kind", [tuple, iter, list])
def test_a_server_may_give_headers_as_any_iterable(kind: Callable[[Any], Any]) -> None:
    """As ASGI has it; the pairs may be lists as well."""
    reader = reader_of(pool_of())
    for pair in (tuple, list):
        for _ in range(3):
            scope = scope_of((b"x", b"y"))
            scope["headers"] = kind([pair(field) for field in scope["headers"]])
            assert sent(reader, scope)[b"x"] == b"y"


class InPlace:
    """An affinity whose `strip` works on the list it is given."""

    def resolve(self, request: RequestInfo, pool: Any) -> Resolution:
        return Resolution(AffinityStatus.BYPASSED)

    def issue(self, resolution: Resolution, backend: Backend, now: float) -> RawHeaders:
        return []

    def strip(self, headers: RawHeaders, pool: Any) -> RawHeaders:
        headers[:] = [field for field in headers if field[0] != b"x-token"]
        return headers


def test_stripping_in_place_hides_nothing_from_the_policies() -> None:
    reader = reader_of(pool_of(affinity=InPlace()))
    for _ in range(3):
        scope = scope_of((b"x-token", b"t"), (b"x", b"y"))
        request = InboundRequest(scope, Route(reader.pool), reader)
        assert request.header(b"x-token") == b"t"
        assert b"x-token" not in sent(reader, scope)


def test_a_bad_section_is_refused_each_time() -> None:
    reader = reader_of(pool_of())
    for _ in range(3):
        with pytest.raises(Exception, match="unsupported Transfer-Encoding"):
            reader.read(scope_of((b"transfer-encoding", b"gzip")))


def test_the_target_counts_for_the_size_of_the_head_whether_or_not_it_was_read_before() -> None:
    reader = reader_of(pool_of(), max_head=100)
    for _ in range(3):
        assert sent(reader, scope_of())
    with pytest.raises(HeadTooLarge):
        sent(reader, scope_of(path="/" + "a" * 100, raw_path=b"/" + b"a" * 100))


def test_what_one_request_is_given_does_not_change_what_the_next_one_gets() -> None:
    pool = pool_of()
    reader = reader_of(pool)
    route = Route(pool, path="/shop", strip_prefix=True)
    scope = scope_of(path="/shop/x", raw_path=b"/shop/x")
    prefixed = InboundRequest(scope, route, reader).for_backend(BACKEND, None, AffinityStatus.NEW)
    assert (b"x-forwarded-prefix", b"/shop") in prefixed.headers
    assert prefixed.lines is None
    assert b"x-forwarded-prefix" not in sent(reader, scope_of())


def test_a_request_that_came_by_wss_is_no_handshake() -> None:
    """As uvicorn says of one for which a trusted proxy does."""
    body = (b"content-length", b"2")
    reader = reader_of(pool_of())
    for _ in range(3):
        assert sent(reader, scope_of(body, method="POST", scheme="wss"))[b"content-length"] == b"2"
        with pytest.raises(BadRequest, match="handshake with a body"):
            sent(reader, websocket_scope(body, scheme="wss"))


def websocket_scope(*headers: tuple[bytes, bytes], **more: Any) -> Any:
    scope = scope_of(*headers, **{"type": "websocket", "scheme": "ws", **more})
    del scope["method"]
    return handshake_scope(scope)


def test_a_handshake_and_a_request_that_read_alike_are_not_taken_for_each_other() -> None:
    reader = reader_of(pool_of())
    fields = [(b"sec-websocket-key", b"k"), (b"content-length", b"0")]
    for _ in range(3):
        assert sent(reader, scope_of(*fields))[b"sec-websocket-key"] == b"k"
        assert b"sec-websocket-key" not in sent(reader, websocket_scope(*fields))


def test_a_handshake_is_a_get_request_without_a_body() -> None:
    reader = reader_of(pool_of())
    for version in ("1.1", "2"):
        scope = websocket_scope(http_version=version)
        request = InboundRequest(scope, Route(reader.pool), reader)
        assert (request.method, request.scheme, request.may_have_body) == ("GET", "http", False)
    assert sent(reader, websocket_scope(scheme="wss"))[b"x-forwarded-proto"] == b"https"


def test_subprotocols_that_a_server_keeps_apart_are_offered_all_the_same() -> None:
    reader, name = reader_of(pool_of()), b"sec-websocket-protocol"
    assert sent(reader, websocket_scope(subprotocols=["b", "a"]))[name] == b"b, a"
    scope = websocket_scope((name, b"b,a"), subprotocols=["b", "a"])
    assert sent(reader, scope)[name] == b"b,a"
    assert name not in sent(reader, websocket_scope(subprotocols=[]))
