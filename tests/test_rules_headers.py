"""Rules 1 to 8 and 38 to 41 over real sockets: header fields, forwarded headers, the cookie."""

from __future__ import annotations

import contextlib
import gzip
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sticky_asgi import AffinityStatus, RequestFinished, SignedCookie
from tests import servers
from tests.gateways import Front, Lane, gateway_before
from tests.servers import Connection, HttpImplementation, RawBackend, encode_request, responding

SECRET = "a secret of 24 bytes ..."
#: What a plain request has at the backend, besides its Host.
ADDED = [
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"test"),
    (b"x-forwarded-port", b"80"),
]
PLAIN = [(b"host", b"test"), *ADDED]


class Events:
    """Keeps what a gateway tells its listeners."""

    def __init__(self) -> None:
        self.finished: list[RequestFinished] = []

    def on_request(self, event: RequestFinished) -> None:
        self.finished.append(event)

    def last(self, count: int) -> RequestFinished:
        """The event of that number, which may come a moment after the response."""
        servers.eventually(lambda: len(self.finished) >= count)
        return self.finished[count - 1]


# To the backend


def test_rule_3_a_plain_request_gets_nothing_but_forwarded_headers(front: Front) -> None:
    assert front.received().headers == PLAIN
    agent = [(b"User-Agent", b"x"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"br")]
    lower = [(name.lower(), value) for name, value in agent]
    assert front.received("GET", b"/", agent).headers == [PLAIN[0], *lower, *ADDED]


def test_rule_2_order_duplicates_and_bytes_arrive(front: Front) -> None:
    fields = [
        (b"X-Same", b"1"),
        (b"accept", b"a"),
        (b"x-same", b"2, 3"),
        (b"X-Bytes", b"\xe4\xff \x80"),
        (b"X-Empty", b""),
        (b"Accept", b"b"),
        (b"X-SAME", b"1"),
        (b"x_under!#$%&'*+-.^`|~", b'"quoted", \t;'),
        (b"cookie", b"a=1; b=2"),
        (b"cookie", b"a=3"),
    ]
    expected = [(name.lower(), value) for name, value in fields]
    assert front.received("GET", b"/", fields).headers == [PLAIN[0], *expected, *ADDED]


def test_rule_1_hop_by_hop_headers_do_not_arrive(front: Front) -> None:
    fields = [
        (b"Connection", b"X-Hop, close"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Proxy-Authorization", b"Basic eDp5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"X-T"),
        (b"Upgrade", b"h2c"),
        (b"connection", b"x-other ,"),
        (b"X-Other", b"1"),
        (b"X-Kept", b"1"),
    ]
    expected = [PLAIN[0], (b"x-kept", b"1"), *ADDED]
    assert front.received("GET", b"/", fields).headers == expected


def test_rule_1_connection_does_not_remove_host_length_or_forwarded_headers(front: Front) -> None:
    names = b"Host, Content-Length, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"
    request = front.received("POST", b"/", [(b"Connection", names)], b"hello")
    assert request.headers == [PLAIN[0], (b"content-length", b"5"), *ADDED]
    assert request.body == b"hello"
    request = front.received("POST", b"/", [(b"Connection", b"transfer-encoding")], [b"hello"])
    assert request.headers == [*PLAIN, (b"transfer-encoding", b"chunked")]
    assert request.body == b"hello"


def test_rule_4_two_hosts_or_none_are_refused(front: Front) -> None:
    front.assert_refused(b"GET / HTTP/1.1\r\n\r\n", 400)
    front.assert_refused(b"GET / HTTP/1.1\r\nX: 1\r\n\r\n", 400)
    front.assert_refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400)
    front.assert_refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400)
    front.assert_refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400)


@pytest.mark.parametrize(
    "host", [b"a/b", b"a@b", b"a b", b"a:b", b"a?b", b"a\\b", b"[::1", b"\xe4", b"a,b c"]
)
def test_rule_4_a_malformed_host_is_refused(front: Front, host: bytes) -> None:
    front.assert_refused(encode_request("GET", b"/", [(b"Host", host)]), 400)


@pytest.mark.parametrize("host", [b"shop.example:8443", b"SHOP.example", b"[::1]:80", b""])
def test_rule_4_host_arrives_as_it_was_sent(front: Front, host: bytes) -> None:
    request = front.received("GET", b"/", [(b"Host", host)])
    assert request.get(b"host") == host
    assert request.get(b"x-forwarded-host") == host


def test_rule_4_http_1_0_without_host_gets_the_backends_own(front: Front) -> None:
    request = front.received(version="1.0")
    assert request.headers == [
        (b"host", front.backend.id.encode()),
        *[field for field in ADDED if field[0] != b"x-forwarded-host"],
    ]
    assert front.received("GET", b"/", [(b"Host", b"test")], version="1.0").headers == PLAIN


def test_rule_4_host_backend_sends_the_backends_own(http: HttpImplementation, lane: Lane) -> None:
    with gateway_before(http=http, lane=lane, host="backend") as front:
        own = (b"host", front.backend.id.encode())
        assert front.received("GET", b"/", [(b"X", b"1")]).headers == [own, (b"x", b"1"), *ADDED]
        assert front.received(version="1.0").get(b"host") == own[1]


TOLD = [
    (b"X-Forwarded-For", b"192.0.2.1, 198.51.100.7"),
    (b"X-Forwarded-For", b"127.0.0.9"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"shop.example"),
    (b"X-Forwarded-Port", b"8443"),
    (b"X-Forwarded-Prefix", b"/shop"),
    (b"X-Real-IP", b"192.0.2.1"),
    (b"Forwarded", b"for=192.0.2.1"),
]


def test_rule_5_what_a_stranger_says_is_replaced(front: Front) -> None:
    assert front.received("GET", b"/", TOLD).headers == PLAIN


def test_rule_5_what_a_trusted_proxy_says_is_appended_to(
    http: HttpImplementation, lane: Lane
) -> None:
    """And the visitor's address, for hashing and logs, is found by walking the chain from the
    right: what stands left of the first stranger may be invented."""
    events = Events()
    options = {"trusted_proxies": ["127.0.0.0/8"], "listeners": [events]}
    with gateway_before(http=http, lane=lane, gateway=options) as front:
        assert front.received("GET", b"/", TOLD).headers == [
            (b"host", b"test"),
            (b"x-forwarded-prefix", b"/shop"),
            (b"x-real-ip", b"192.0.2.1"),
            (b"forwarded", b"for=192.0.2.1"),
            (b"x-forwarded-for", b"192.0.2.1, 198.51.100.7, 127.0.0.9, 127.0.0.1"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"shop.example"),
            (b"x-forwarded-port", b"8443"),
        ]
        assert events.last(1).client == "198.51.100.7"
        assert front.received().headers == PLAIN
        assert events.last(2).client == "127.0.0.1"
        front.received("GET", b"/", [(b"X-Forwarded-For", b"192.0.2.1, junk, 127.0.0.9")])
        assert events.last(3).client == "127.0.0.9"


def test_rule_5_a_proxy_that_is_not_in_the_list_is_a_stranger(http: HttpImplementation) -> None:
    events = Events()
    options = {"trusted_proxies": ["10.0.0.0/8"], "listeners": [events]}
    with gateway_before(http=http, gateway=options) as front:
        assert front.received("GET", b"/", TOLD).headers == PLAIN
        assert events.last(1).client == "127.0.0.1"


def test_rule_5_a_proxy_on_a_unix_socket_may_be_trusted(
    http: HttpImplementation, tmp_path: Path
) -> None:
    """uvicorn's httptools protocol gives such a peer the empty address, h11 none at all."""
    path = tmp_path / "gateway.sock"
    told = [(b"X-Forwarded-For", b"192.0.2.1"), (b"X-Forwarded-Proto", b"https")]
    for trusted, hops, scheme in (([], [], b"http"), (["unix"], [b"192.0.2.1"], b"https")):
        events = Events()
        options = {"trusted_proxies": trusted, "listeners": [events]}
        with gateway_before(http=http, gateway=options, server={"unix": path}) as front:
            assert servers.request(0, "GET", b"/", told, unix=path).status == 200
            (request,) = front.backend.requests
            assert request.get_all(b"x-forwarded-for") == hops
            assert request.get(b"x-forwarded-proto") == scheme
            assert (events.last(1).client or None) == (hops[0].decode() if hops else None)
        path.unlink(missing_ok=True)


def test_rule_5_the_forwarded_header_is_written_on_demand(
    http: HttpImplementation, lane: Lane
) -> None:
    own = (b"forwarded", b'for=127.0.0.1;host="test";proto=http')
    theirs = (b"forwarded", b"for=192.0.2.1")
    with gateway_before(http=http, lane=lane, gateway={"forwarded": True}) as front:
        assert front.received("GET", b"/", [theirs]).headers == [*PLAIN, own]
    options = {"forwarded": True, "trusted_proxies": ["127.0.0.1"]}
    with gateway_before(http=http, lane=lane, gateway=options) as front:
        assert front.received("GET", b"/", [theirs]).headers == [PLAIN[0], theirs, *ADDED, own]


def test_rule_6_neither_the_affinity_cookie_nor_proxy_credentials_arrive(
    http: HttpImplementation, lane: Lane
) -> None:
    with gateway_before(http=http, lane=lane, affinity=SignedCookie(SECRET)) as front:
        cookies = b"a=1; sticky_shop=x.y;  b=2;c"
        fields = [(b"Cookie", cookies), (b"Proxy-Authorization", b"Basic eDp5")]
        expected = [PLAIN[0], (b"cookie", b"a=1;  b=2;c"), *ADDED]
        assert front.received("GET", b"/", fields).headers == expected
        only = [(b"Cookie", b"sticky_shop=x.y")]
        assert front.received("GET", b"/", only).headers == PLAIN
        basic = [(b"Authorization", b"Basic eDp5")]
        assert front.received("GET", b"/", basic).get(b"authorization") == b"Basic eDp5"


def test_rule_6_the_affinity_cookie_arrives_if_asked_for(http: HttpImplementation) -> None:
    with gateway_before(http=http, affinity=SignedCookie(SECRET, forward=True)) as front:
        request = front.received("GET", b"/", [(b"Cookie", b"a=1; sticky_shop=x.y")])
        assert request.get(b"cookie") == b"a=1; sticky_shop=x.y"


@pytest.mark.parametrize("announce", [False, True])
def test_sticky_session_of_a_client_never_arrives(
    http: HttpImplementation, lane: Lane, announce: bool
) -> None:
    """Trusted or not, whatever the spelling: only the gateway says it."""
    with gateway_before(
        http=http,
        lane=lane,
        affinity=SignedCookie(SECRET, announce=announce),
        gateway={"trusted_proxies": ["127.0.0.1"]},
    ) as front:
        claims = [(b"Sticky-Session", b"moved"), (b"STICKY-SESSION", b"lost")]
        request = front.received("GET", b"/", claims)
        assert request.get_all(b"sticky-session") == ([b"new"] if announce else [])
        cookie = set_cookie(front.request()).partition(b";")[0]
        request = front.received("GET", b"/", [(b"Cookie", cookie), *claims])
        assert request.get_all(b"sticky-session") == ([b"kept"] if announce else [])


def test_rule_8_environment_proxies_and_netrc_are_not_read(
    http: HttpImplementation, lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login x password y\nmachine 127.0.0.1 login x password y\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(netrc.read_text())
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with servers.refusing_port() as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        with gateway_before(http=http, lane=lane) as front:
            assert front.received().headers == PLAIN


# To the client


def answering(
    http: HttpImplementation, lane: Lane, *responses: bytes, **options: Any
) -> contextlib.AbstractContextManager[Front]:
    return gateway_before(responding(*responses), http=http, lane=lane, **options)


def test_rule_2_response_headers_arrive_in_order_with_duplicates_and_bytes(
    http: HttpImplementation, lane: Lane
) -> None:
    """Several Set-Cookie among them. ASGI knows names in lower case only."""
    fields = [
        (b"Set-Cookie", b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Path=/"),
        (b"X-Same", b"1"),
        (b"Set-Cookie", b"b=2"),
        (b"Vary", b"Accept"),
        (b"x-same", b"1, 2"),
        (b"X-Bytes", b"\xe4\xff \x80"),
        (b"X-Empty", b""),
        (b"set-cookie", b"a=1; Path=/x"),
        (b"Vary", b"Cookie"),
        (b"Content-Length", b"2"),
    ]
    with answering(http, lane, servers.response(200, b"ok", fields)) as front:
        answer = front.request()
        assert answer.body == b"ok"
        arrived = [(name.lower(), value) for name, value in answer.headers]
        assert arrived == [(name.lower(), value) for name, value in fields]


def test_rule_1_hop_by_hop_headers_of_a_response_do_not_arrive(
    http: HttpImplementation, lane: Lane
) -> None:
    fields = [
        (b"Connection", b"X-Hop, keep-alive, content-length"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Trailer", b"X-T"),
        (b"Upgrade", b"h2c"),
        (b"TE", b"trailers"),
        (b"X-Kept", b"1"),
        (b"Content-Length", b"2"),
    ]
    with answering(http, lane, servers.response(200, b"ok", fields)) as front:
        answer = front.request()
        assert answer.body == b"ok"
        arrived = [(name.lower(), value) for name, value in answer.headers]
        assert arrived == [(b"x-kept", b"1"), (b"content-length", b"2")]


def test_rule_7_server_and_date_are_the_backends(http: HttpImplementation, lane: Lane) -> None:
    fields = [(b"Server", b"backend/1"), (b"Date", b"Wed, 21 Oct 2015 07:28:00 GMT")]
    with answering(http, lane, servers.response(200, b"ok", fields)) as front:
        answer = front.request()
        assert answer.get(b"server") == b"backend/1"
        assert answer.get(b"date") == b"Wed, 21 Oct 2015 07:28:00 GMT"


def test_rule_7_uvicorn_adds_its_own_unless_told_not_to(http: HttpImplementation) -> None:
    """Why `--no-server-header --no-date-header` belong on the command line."""
    fields = [(b"Server", b"backend/1"), (b"Date", b"Wed, 21 Oct 2015 07:28:00 GMT")]
    defaults = {"server_header": True, "date_header": True}
    with answering(http, "http1", servers.response(200, b"ok", fields), server=defaults) as front:
        answer = front.request()
        assert answer.get_all(b"server") == [b"uvicorn", b"backend/1"]
        assert len(answer.get_all(b"date")) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_rule_8_redirects_are_not_followed(obedient: Front, status: int) -> None:
    seen = len(obedient.backend.requests)
    moved = servers.response(status, b"moved", [(b"Location", b"/elsewhere?a=%2F")])
    answer = obedient.request("POST", b"/", (), moved)
    assert (answer.status, answer.body) == (status, b"moved")
    assert answer.get(b"location") == b"/elsewhere?a=%2F"
    assert len(obedient.backend.requests) == seen + 1


def test_rule_8_one_visitors_cookies_never_travel_with_another(
    http: HttpImplementation, lane: Lane
) -> None:
    fields = [(b"Set-Cookie", b"session=visitor-1; Path=/")]
    with answering(http, lane, servers.response(200, b"", fields)) as front:
        assert front.request().get(b"set-cookie") == b"session=visitor-1; Path=/"
        own = [(b"Cookie", b"session=visitor-2")]
        assert front.received("GET", b"/", own).get_all(b"cookie") == [b"session=visitor-2"]
        assert front.received().headers == PLAIN


def test_rule_8_a_challenge_is_not_answered(http: HttpImplementation, lane: Lane) -> None:
    fields = [(b"WWW-Authenticate", b'Basic realm="x"')]
    with answering(http, lane, servers.response(401, b"no", fields)) as front:
        answer = front.request()
        assert (answer.status, answer.get(b"www-authenticate")) == (401, b'Basic realm="x"')
        assert len(front.backend.requests) == 1


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        pytest.param(b"gzip", gzip.compress(b"hello" * 1000, mtime=0), id="gzip"),
        pytest.param(b"br, gzip", b"\x00\xff not what it says it is", id="junk"),
    ],
)
def test_rule_17_nothing_is_decoded(
    http: HttpImplementation, lane: Lane, coding: bytes, body: bytes
) -> None:
    fields = [(b"Content-Encoding", coding)]
    whole, pieces = (
        servers.response(200, body, fields),
        servers.response(200, b"", fields, chunks=[body[:10], body[10:]]),
    )
    with answering(http, lane, whole, pieces) as front:
        for length in (b"%d" % len(body), None):
            answer = front.request()
            assert answer.complete
            assert answer.body == body
            assert answer.get(b"content-encoding") == coding
            assert answer.get(b"content-length") == length


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"X: a\x01b", id="control"),
        pytest.param(b"X: a\x00b", id="nul"),
        pytest.param(b"X Y: a", id="space-in-name"),
        pytest.param(b": a", id="no-name"),
        pytest.param(b"X\xe4: a", id="not-a-token"),
    ],
)
def test_rule_12_a_response_with_bad_header_fields_is_502(obedient: Front, field: bytes) -> None:
    bad = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + field + b"\r\n\r\nok"
    answer = obedient.request("POST", b"/", (), bad)
    assert (answer.status, answer.body) == (502, b"502 Bad Gateway\n")
    assert answer.complete


# Affinity


def set_cookie(answer: servers.RawResponse) -> bytes:
    (value,) = [v for v in answer.get_all(b"set-cookie") if v.startswith(b"sticky_shop=")]
    return value


def named(name: str) -> servers.Handler:
    """A backend that says its name, and sets two cookies of its own."""
    own = [(b"Set-Cookie", b"own=1; Path=/"), (b"Set-Cookie", b"own=2"), (b"X-Name", name.encode())]
    return responding(servers.response(200, name.encode(), own))


@contextlib.contextmanager
def two_backends(
    http: HttpImplementation, lane: Lane, cookie: SignedCookie, **options: Any
) -> Iterator[Front]:
    with RawBackend(named("b")) as second:
        with gateway_before(
            named("a"), http=http, lane=lane, others=[second.url], affinity=cookie, **options
        ) as front:
            yield front


def test_rule_38_the_cookie_leads_back_and_is_appended_to_the_backends_own(
    http: HttpImplementation, lane: Lane
) -> None:
    with two_backends(http, lane, SignedCookie(SECRET)) as front:
        for _ in range(2):
            first = front.request()
            own = [b"own=1; Path=/", b"own=2"]
            assert first.get_all(b"set-cookie")[:2] == own
            assert len(first.get_all(b"set-cookie")) == 3
            pair = set_cookie(first).partition(b";")[0]
            assert pair == first.get_all(b"set-cookie")[2].partition(b";")[0]
            assert b"127.0.0.1" not in pair
            for _ in range(3):
                again = front.request("GET", b"/", [(b"Cookie", pair)])
                assert again.body == first.body
                # Kept as it is: the visitor has it already, and caches keep working.
                assert again.get_all(b"set-cookie") == own


def test_rule_38_forged_expired_and_foreign_cookies_count_as_none(
    http: HttpImplementation, lane: Lane
) -> None:
    now = [1_700_000_000.0]
    events = Events()
    cookie = SignedCookie(SECRET, idle_timeout=60, clock=lambda: now[0])
    foreign = SignedCookie("another secret of 31 bytes ....", clock=lambda: now[0])
    with two_backends(http, lane, foreign) as front:
        strange = set_cookie(front.request()).partition(b";")[0]
    with two_backends(http, lane, cookie, gateway={"listeners": [events]}) as front:
        good = set_cookie(front.request()).partition(b";")[0]
        now[0] += 59
        sent = [
            (good, AffinityStatus.KEPT),
            (strange, AffinityStatus.INVALID),
            (good[:-1] + (b"A" if good[-1:] != b"A" else b"B"), AffinityStatus.INVALID),
            (b"sticky_shop=", AffinityStatus.INVALID),
            (b"sticky_shop=127.0.0.1:80", AffinityStatus.INVALID),
            (b"other=" + good, AffinityStatus.NEW),
        ]
        for number, (pair, status) in enumerate(sent, 2):
            answer = front.request("GET", b"/", [(b"Cookie", pair)])
            assert answer.status == 200
            assert events.last(number).affinity is status
            assert set_cookie(answer).startswith(b"sticky_shop=")
        now[0] += 3600
        answer = front.request("GET", b"/", [(b"Cookie", good)])
        assert events.last(len(sent) + 2).affinity is AffinityStatus.EXPIRED
        assert set_cookie(answer).partition(b";")[0] != good


def test_rule_38_a_cookie_is_bound_to_its_pool(http: HttpImplementation, lane: Lane) -> None:
    """Another pool under the same secret and the same cookie name does not honour it."""
    cookie = SignedCookie(SECRET, name="sticky_shop")
    with two_backends(http, lane, cookie) as front:
        other = type(front.pool)("other", front.pool.backends, affinity=cookie)
        pair = set_cookie(front.request()).partition(b";")[0]
        answer = front.request("GET", b"/", [(b"Cookie", pair)])
        assert len(answer.get_all(b"set-cookie")) == 2
        front.server.call(front.gateway.replace_routes, {"/": other})
        answer = front.request("GET", b"/", [(b"Cookie", pair)])
        assert set_cookie(answer).partition(b";")[0] != pair


def test_rule_38_errors_of_the_gateway_set_no_cookie(http: HttpImplementation, lane: Lane) -> None:
    def hangs_up(connection: Connection) -> None:
        connection.read_request()

    with gateway_before(hangs_up, http=http, lane=lane, affinity=SignedCookie(SECRET)) as front:
        answer = front.request("POST")
        assert (answer.status, answer.get_all(b"set-cookie")) == (502, [])
        answer = front.request("GET", b"/", [(b"Host", b"a/b")])
        assert (answer.status, answer.get_all(b"set-cookie")) == (400, [])


def test_rules_39_and_40_the_cookie_is_for_every_path_and_lax(
    http: HttpImplementation, lane: Lane
) -> None:
    """Secure only when the visitor came by https: as a trusted proxy says."""
    options = {"trusted_proxies": ["127.0.0.1"]}
    with two_backends(http, lane, SignedCookie(SECRET), gateway=options) as front:
        plain = set_cookie(front.request("GET", b"/deep/down"))
        assert re.fullmatch(rb"sticky_shop=[\w.~-]+; Path=/; SameSite=Lax; HttpOnly", plain)
        https = [(b"X-Forwarded-Proto", b"https")]
        secure = set_cookie(front.request("GET", b"/", https))
        assert re.fullmatch(
            rb"sticky_shop=[\w.~-]+; Path=/; SameSite=Lax; Secure; HttpOnly", secure
        )
    with two_backends(http, lane, SignedCookie(SECRET)) as front:
        assert b"Secure" not in set_cookie(front.request("GET", b"/", https))


def test_rule_40_a_cookie_for_iframes_is_secure_and_partitioned(http: HttpImplementation) -> None:
    cookie = SignedCookie(SECRET, same_site="none", partitioned=True)
    with two_backends(http, "http1", cookie) as front:
        attributes = set_cookie(front.request()).split(b"; ")[1:]
        assert set(attributes) == {
            b"Path=/",
            b"SameSite=None",
            b"Secure",
            b"HttpOnly",
            b"Partitioned",
        }


def test_rule_41_gateways_with_the_same_secrets_agree(http: HttpImplementation, lane: Lane) -> None:
    """Nothing is shared between them but the secrets and the backends' ids."""
    with two_backends(http, lane, SignedCookie(SECRET)) as one:
        urls = [backend.url for backend in one.pool.backends if backend.url]
        # The third backend shifts every order and count: the token is no index.
        with gateway_before(
            named("c"), http=http, lane=lane, others=urls[::-1], affinity=SignedCookie(SECRET)
        ) as other:
            for _ in range(4):
                first = one.request()
                pair = set_cookie(first).partition(b";")[0]
                for gateway in (other, one):
                    again = gateway.request("GET", b"/", [(b"Cookie", pair)])
                    assert again.body == first.body
                    assert len(again.get_all(b"set-cookie")) == 2


def test_a_cookie_marks_a_cacheable_response_private(http: HttpImplementation, lane: Lane) -> None:
    own = servers.response(200, b"", [(b"Cache-Control", b"max-age=60")])
    with answering(http, lane, servers.response(200), own, affinity=SignedCookie(SECRET)) as front:
        answer = front.request()
        assert answer.get(b"cache-control") == b"private"
        pair = set_cookie(answer).partition(b";")[0]
        assert front.request().get(b"cache-control") == b"max-age=60"
        assert front.request("GET", b"/", [(b"Cookie", pair)]).get(b"set-cookie") is None


def test_concurrent_visitors_do_not_mix(http: HttpImplementation, lane: Lane) -> None:
    """Each gets the answer to its own request, whichever connection is reused for it."""
    mixed: list[bytes] = []

    def visit(number: int) -> None:
        with servers.RawClient(front.port) as client:
            for turn in range(20):
                mark = b"%d-%d" % (number, turn)
                answer = client.request("POST", b"/" + mark, [(b"X-Mark", mark)], mark)
                seen = answer.json()
                marks = [value for name, value in seen["headers"] if name == "x-mark"]
                if (seen["target"], seen["body"], marks) != (
                    "/" + mark.decode(),
                    mark.decode(),
                    [mark.decode()],
                ):
                    mixed.append(mark)

    with gateway_before(http=http, lane=lane) as front:
        threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(servers.WAIT)
        assert not any(thread.is_alive() for thread in threads)
        assert len(front.backend.requests) == 160
    assert mixed == []
