"""`headers.py` and `request.py`: what is refused, removed, kept and added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.exceptions import BadRequest, HeadTooLarge, MalformedResponse
from sticky_asgi.headers import (
    HOP_BY_HOP,
    RequestHead,
    downstream_headers,
    handshake_headers,
    is_cacheable,
    listed,
    upstream_headers,
)
from sticky_asgi.request import RawHeaders, RequestInfo
from sticky_asgi.trusted_proxies import TrustedProxies, visitor_address, visitor_scheme

HOST = (b"host", b"test")
TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
NAMES = st.text(TOKEN_CHARACTERS, min_size=1, max_size=12).map(str.encode)
VALUES = st.text(
    st.sampled_from([chr(byte) for byte in range(256) if byte == 9 or 31 < byte != 127])
).map(lambda text: text.encode("latin-1"))
#: What every request is sent with, for `forwarded()`'s defaults.
ADDED = [
    (b"x-forwarded-for", b"192.0.2.1"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"test"),
    (b"x-forwarded-port", b"80"),
]


def head(*headers: tuple[bytes, bytes], version: str = "1.1", limit: int = 65536) -> RequestHead:
    """A request head; `Host: test` comes first unless there is another."""
    fields = list(headers)
    if not any(name == b"host" for name, _ in fields) and version == "1.1":
        fields.insert(0, HOST)
    return RequestHead(fields, http_version=version, limit=limit)


def forwarded(
    *headers: tuple[bytes, bytes],
    keep_host: bool = True,
    peer: str | None = "192.0.2.1",
    scheme: str = "http",
    is_trusted: bool = False,
    rfc7239: bool = False,
    version: str = "1.1",
) -> RawHeaders:
    read = head(*headers, version=version)
    return upstream_headers(
        read,
        read.passed,
        keep_host=keep_host,
        peer=peer,
        scheme=scheme,
        is_trusted=is_trusted,
        rfc7239=rfc7239,
    )


# What is refused


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"abc",
        b"+5",
        b"-5",
        b"5 5",
        b"5, 5",
        b"0x5",
        b"5_0",
        b"5.0",
        b"1e3",
        "\N{SUPERSCRIPT TWO}".encode("latin-1"),
        "\N{ARABIC-INDIC DIGIT FIVE}".encode(),
        b"9" * 19,
    ],
)
def test_rule_12_garbage_in_content_length_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        head((b"content-length", value))


def test_rule_12_content_length_is_read() -> None:
    assert head().content_length is None
    assert head((b"content-length", b"0")).content_length == 0
    assert head((b"content-length", b"007")).content_length == 7
    assert head((b"content-length", b"9" * 18)).content_length == 10**18 - 1


def test_rule_12_unequal_content_lengths_are_refused_and_equal_ones_are_one() -> None:
    with pytest.raises(BadRequest):
        head((b"content-length", b"5"), (b"content-length", b"6"))
    twice = [(b"content-length", b"5"), (b"content-length", b"5")]
    assert head(*twice).content_length == 5
    assert forwarded(*twice) == [HOST, (b"content-length", b"5"), *ADDED]


@pytest.mark.parametrize("length", [b"0", b"5"])
def test_rule_12_transfer_encoding_with_content_length_is_refused(length: bytes) -> None:
    chunked, declared = (b"transfer-encoding", b"chunked"), (b"content-length", length)
    for fields in ((chunked, declared), (declared, chunked)):
        with pytest.raises(BadRequest):
            head(*fields)


@pytest.mark.parametrize(
    "values",
    [
        [b"gzip"],
        [b"identity"],
        [b"gzip, chunked"],
        [b"chunked, gzip"],
        [b"chunked, chunked"],
        [b"chunked", b"chunked"],
        [b"chunked;a=b"],
        [b"xchunked"],
        [b"\x0bchunked"],
        [b'"chunked"'],
        [b""],
    ],
)
def test_rule_12_other_transfer_codings_are_refused(values: list[bytes]) -> None:
    with pytest.raises(BadRequest):
        head(*[(b"transfer-encoding", value) for value in values])


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" chunked\t"])
def test_rule_12_chunked_is_understood(value: bytes) -> None:
    assert head((b"transfer-encoding", value)).is_chunked


def test_rule_12_transfer_encoding_in_http_1_0_is_refused() -> None:
    """RFC 9112 §6.1: a message framed in a way its version does not know."""
    with pytest.raises(BadRequest):
        head((b"transfer-encoding", b"chunked"), HOST, version="1.0")
    assert head((b"transfer-encoding", b"chunked"), HOST, version="2").is_chunked


@given(st.binary(max_size=6))
def test_rule_12_names_are_tokens(name: bytes) -> None:
    is_token = bool(name) and all(chr(byte).lower() in TOKEN_CHARACTERS for byte in name)
    if name.lower() in (b"te", b"host"):
        return
    if is_token:
        assert (name.lower(), b"1") in head((name, b"1")).headers
    else:
        with pytest.raises(BadRequest):
            head((b"x-good", b"1"), (name, b"1"))


def test_rule_12_control_characters_in_values_are_refused() -> None:
    for byte in range(256):
        field = (b"x", b"a" + bytes((byte,)) + b"b")
        if (byte < 32 and byte != 9) or byte == 127:
            with pytest.raises(BadRequest):
                head((b"x-good", b"1"), field)
            with pytest.raises(MalformedResponse):
                downstream_headers([(b"x-good", b"1"), field], status=200)
        else:
            assert field in head(field).headers
            assert downstream_headers([field], status=200) == [field]


def test_rule_12_a_head_over_the_limit_is_refused() -> None:
    size = len(b"host: test\r\n") + len(b"x: \r\n")
    assert head((b"x", b"a" * (65536 - size + 1)), limit=65537)
    assert head((b"x", b"a" * (65536 - size)))
    with pytest.raises(HeadTooLarge) as caught:
        head((b"x", b"a" * (65536 - size + 1)))
    assert caught.value.status_code == 431
    with pytest.raises(HeadTooLarge):
        head(*[(b"x", b"")] * 20000)


def test_rule_12_the_list_in_the_scope_may_grow_and_the_head_does_not() -> None:
    """uvicorn's httptools protocol appends trailers to it while the request is being served."""
    fields = [HOST]
    read = RequestHead(fields, http_version="1.1")
    fields.append((b"transfer-encoding", b"chunked"))
    assert read.headers == [HOST]


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"example.com",
        b"EXAMPLE.com:8080",
        b"example.com:",
        b"192.0.2.1:80",
        b"[2001:db8::1]",
        b"[::1]:8000",
        b"[fe80::1%25eth0]",
        b"my_host",
        b"xn--bcher-kva.example",
    ],
)
def test_rule_4_good_hosts(host: bytes) -> None:
    assert head((b"host", host)).host == host


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/b",
        b"a@b",
        b"a?b",
        b"a#b",
        b"a\\b",
        b'a"b',
        b"a<b",
        b"a:b",
        b"a:80:80",
        b"::1",
        b"[::1",
        b"::1]",
        b"[]",
        b"[::1]x",
        b"a\tb",
        b"a a",
        b"b\xfccher",
        b"http://a",
    ],
)
def test_rule_4_malformed_hosts_are_refused(host: bytes) -> None:
    with pytest.raises(BadRequest):
        head((b"host", host))


@pytest.mark.parametrize(
    ("version", "count", "is_good"),
    [
        ("1.1", 0, False),
        ("1.1", 1, True),
        ("1.1", 2, False),
        ("1.0", 0, True),
        ("1.0", 1, True),
        ("1.0", 2, False),
        ("2", 0, True),
        ("2", 2, False),
    ],
)
def test_rule_4_exactly_one_host(version: str, count: int, is_good: bool) -> None:
    fields = [HOST] * count
    if is_good:
        assert RequestHead(fields, http_version=version).host == (b"test" if count else None)
    else:
        with pytest.raises(BadRequest):
            RequestHead(fields, http_version=version)


# What goes to the backend


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_rule_2_order_duplicates_and_bytes_survive(fields: RawHeaders) -> None:
    special = {b"host", b"content-length", b"expect", b"sticky-session", b"forwarded", b"x-real-ip"}
    plain = [
        # White space around a value is no part of it; look-alikes have a test of their own.
        (name, value.strip(b" \t"))
        for name, value in fields
        if name.replace(b"_", b"-") not in HOP_BY_HOP | special
        and not name.replace(b"_", b"-").startswith(b"x-forwarded")
    ]
    assert forwarded(*plain) == [HOST, *plain, *ADDED]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
def test_rule_1_hop_by_hop_headers_are_removed_both_ways(name: bytes) -> None:
    kept = (b"x-kept", b"1")
    assert forwarded((name, b"x"), kept) == [HOST, kept, *ADDED]
    assert downstream_headers([(name, b"x"), kept], status=200) == [kept]


def test_rule_1_every_header_that_connection_names_is_removed_both_ways() -> None:
    fields = [
        (b"x-a", b"1"),
        (b"connection", b"X-A , ,x-B"),
        (b"x-b", b"1"),
        (b"x-kept", b"1"),
        (b"connection", b"X-C,close"),
        (b"x-c", b"1"),
    ]
    assert forwarded(*fields) == [HOST, (b"x-kept", b"1"), *ADDED]
    assert downstream_headers(fields, status=200) == [(b"x-kept", b"1")]


def test_rule_1_connection_cannot_name_host_content_length_or_what_the_gateway_adds() -> None:
    connection = (b"connection", b"host, content-length, x-forwarded-for, x-forwarded-proto")
    length = (b"content-length", b"5")
    assert forwarded(connection, length) == [HOST, length, *ADDED]
    assert downstream_headers([connection, length], status=200) == [length]


def test_rule_1_names_of_a_response_may_come_in_any_case() -> None:
    fields = [(b"Connection", b"X-Hop"), (b"X-HOP", b"1"), (b"Keep-Alive", b"1"), (b"X-Kept", b"A")]
    assert downstream_headers(fields, status=200) == [(b"x-kept", b"A")]


@given(st.lists(st.sampled_from([b"a", b"B", b" ", b",", b"\t"])).map(b"".join))
def test_listed_agrees_with_a_naive_model(value: bytes) -> None:
    expected = {part.strip().lower() for part in value.decode().split(",")} - {""}
    assert {member.decode() for member in listed(value)} == expected


def test_rule_4_host_is_passed_on_or_left_to_the_caller() -> None:
    assert forwarded()[0] == HOST
    assert forwarded(keep_host=False) == ADDED
    assert forwarded(version="1.0") == [field for field in ADDED if field[0] != b"x-forwarded-host"]


@pytest.mark.parametrize("name", [b"expect", b"sticky-session"])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_what_no_client_may_say(name: bytes, is_trusted: bool) -> None:
    sent = forwarded((name, b"x"), is_trusted=is_trusted)
    assert sent == [HOST, *ADDED]


FORWARDED = [
    (b"x-forwarded-for", b"198.51.100.7, 203.0.113.9"),
    (b"x-forwarded-for", b"198.51.100.8"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example"),
    (b"x-forwarded-port", b"8443"),
    (b"x-forwarded-prefix", b"/shop"),
    (b"x-real-ip", b"198.51.100.7"),
    (b"forwarded", b"for=198.51.100.7"),
]


def test_rule_5_forwarded_headers_of_a_stranger_are_replaced() -> None:
    assert forwarded(*FORWARDED) == [HOST, *ADDED]


def test_rule_5_forwarded_headers_of_a_trusted_proxy_are_appended_to() -> None:
    assert forwarded(*FORWARDED, is_trusted=True, scheme="https", rfc7239=True) == [
        HOST,
        (b"x-forwarded-prefix", b"/shop"),
        (b"x-real-ip", b"198.51.100.7"),
        (b"forwarded", b"for=198.51.100.7"),
        (b"x-forwarded-for", b"198.51.100.7, 203.0.113.9, 198.51.100.8, 192.0.2.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"shop.example"),
        (b"x-forwarded-port", b"8443"),
        (b"forwarded", b'for=192.0.2.1;host="test";proto=https'),
    ]


@pytest.mark.parametrize(
    ("host", "scheme", "port"),
    [
        (b"test", "http", b"80"),
        (b"test", "https", b"443"),
        (b"test:8000", "https", b"8000"),
        (b"test:", "http", b"80"),
        (b"[::1]", "https", b"443"),
        (b"[::1]:8000", "http", b"8000"),
        (b"", "http", b"80"),
    ],
)
def test_rule_5_port_is_the_one_the_visitor_used(host: bytes, scheme: str, port: bytes) -> None:
    assert (b"x-forwarded-port", port) in forwarded((b"host", host), scheme=scheme)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        pytest.param("192.0.2.1", b'for=192.0.2.1;host="test";proto=http', id="ipv4"),
        pytest.param("2001:db8::1", b'for="[2001:db8::1]";host="test";proto=http', id="ipv6"),
        pytest.param(None, b'for=unknown;host="test";proto=http', id="unix-socket"),
    ],
)
def test_rule_5_forwarded_is_written_as_rfc_7239_says(peer: str | None, expected: bytes) -> None:
    assert forwarded(peer=peer, rfc7239=True)[-1] == (b"forwarded", expected)


def test_rule_5_a_peer_without_address_adds_none() -> None:
    assert forwarded(peer=None) == [HOST, *ADDED[1:]]
    told = (b"x-forwarded-for", b"198.51.100.7")
    assert forwarded(told, peer=None, is_trusted=True)[1] == told


# Whom to believe


def test_trusted_proxies_knows_addresses_networks_and_unix_sockets() -> None:
    trusted = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix"])
    for address in ("10.1.2.3", "192.0.2.1", "2001:db8::5", "::ffff:10.1.2.3", None, ""):
        assert address in trusted
    for address in (
        "11.0.0.1",
        "192.0.2.2",
        "2001:db9::5",
        "::ffff:11.0.0.1",
        "junk",
        "testclient",
    ):
        assert address not in trusted
    assert None not in TrustedProxies(["10.0.0.0/8"])
    assert None not in TrustedProxies()
    assert "127.0.0.1" not in TrustedProxies()
    assert "10.9.9.9" in TrustedProxies(["10.1.2.3/8"])


def test_trusted_proxies_says_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match=r"trusted_proxies: '10\.0\.0/8' is neither"):
        TrustedProxies(["10.0.0/8"])
    with pytest.raises(ValueError, match="must be a list"):
        TrustedProxies("10.0.0.0/8")
    with pytest.raises(ValueError, match="trusted_proxies must be a list of networks, got None"):
        TrustedProxies(None)  # type: ignore[arg-type]
    for entry in (5, b"\x7f\0\0\1", None):
        with pytest.raises(ValueError, match=r"trusted_proxies: .* is neither") as caught:
            TrustedProxies([entry])  # type: ignore[list-item]
        assert repr(entry) in str(caught.value)


def test_trusted_proxies_repr() -> None:
    assert repr(TrustedProxies(["10.0.0.0/8", "unix"])) == "<TrustedProxies 10.0.0.0/8, unix>"
    assert repr(TrustedProxies()) == "<TrustedProxies nobody>"


@pytest.mark.parametrize(
    ("peer", "hops", "expected"),
    [
        pytest.param("192.0.2.1", [b"198.51.100.7"], "192.0.2.1", id="stranger"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="trusted-says-nothing"),
        pytest.param("10.0.0.1", [b""], "10.0.0.1", id="trusted-says-empty"),
        pytest.param("10.0.0.1", [b"198.51.100.7"], "198.51.100.7", id="one-hop"),
        pytest.param("10.0.0.1", [b"1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7", id="chain"),
        pytest.param(
            "10.0.0.1", [b"1.1.1.1", b"198.51.100.7,10.0.0.2"], "198.51.100.7", id="two-lines"
        ),
        pytest.param("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3", id="all-trusted"),
        pytest.param("10.0.0.1", [b"1.1.1.1, junk, 10.0.0.2"], "10.0.0.2", id="stops-at-junk"),
        pytest.param("10.0.0.1", [b"198.51.100.7:4711"], "198.51.100.7", id="port"),
        pytest.param("10.0.0.1", [b"[2001:db8::1]:4711"], "2001:db8::1", id="ipv6-and-port"),
        pytest.param("10.0.0.1", [b"2001:db8::1"], "2001:db8::1", id="ipv6"),
        pytest.param("10.0.0.1", [b"unknown"], "10.0.0.1", id="unknown"),
        pytest.param(None, [b"198.51.100.7"], "198.51.100.7", id="unix-socket"),
    ],
)
def test_rule_5_the_visitor_is_found_behind_the_trusted_proxies(
    peer: str | None, hops: list[bytes], expected: str
) -> None:
    assert visitor_address(peer, hops, TrustedProxies(["10.0.0.0/8", "unix"])) == expected


@given(st.lists(st.sampled_from(["10.0.0.2", "198.51.100.7", "203.0.113.9", "junk"]), max_size=8))
def test_rule_5_what_a_visitor_invents_changes_nothing(invented: list[str]) -> None:
    """The proxy appends the real address to whatever its client sent."""
    hops = ", ".join([*invented, "192.0.2.9"]).encode()
    assert visitor_address("10.0.0.1", [hops], TrustedProxies(["10.0.0.0/8"])) == "192.0.2.9"


@pytest.mark.parametrize(
    ("scheme", "told", "is_trusted", "expected"),
    [
        ("http", [], True, "http"),
        ("https", [], False, "https"),
        ("ws", [], False, "http"),
        ("wss", [], False, "https"),
        ("http", [b"https"], True, "https"),
        ("http", [b"HTTPS"], True, "https"),
        ("http", [b"wss"], True, "https"),
        ("https", [b"http"], True, "http"),
        ("http", [b"https"], False, "http"),
        ("http", [b"http", b"https"], True, "https"),
        ("http", [b"gopher"], True, "http"),
    ],
)
def test_rule_5_the_scheme_is_the_connections_or_what_a_trusted_proxy_says(
    scheme: str, told: list[bytes], is_trusted: bool, expected: str
) -> None:
    read = head(*[(b"x-forwarded-proto", value) for value in told])
    assert visitor_scheme(scheme, read.forwarded, is_trusted) == expected


# What goes to the client


def test_rule_2_set_cookies_stay_apart_and_in_order() -> None:
    fields = [(b"set-cookie", b"a=1"), (b"x", b"1"), (b"set-cookie", b"b=2"), (b"x", b"1")]
    assert downstream_headers(fields, status=200) == fields


@pytest.mark.parametrize("status", [204, 304])
def test_rule_14_no_content_length_where_a_server_would_miss_the_body(status: int) -> None:
    fields = [(b"content-length", b"5"), (b"etag", b'"x"')]
    assert downstream_headers(fields, status=status) == [(b"etag", b'"x"')]


def test_rule_12_a_length_beside_a_transfer_coding_is_removed() -> None:
    fields = [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"), (b"x", b"1")]
    assert downstream_headers(fields, status=200) == [(b"x", b"1")]


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\r\nb", b"\xe4"])
def test_rule_12_malformed_names_of_a_response_are_the_backends_fault(name: bytes) -> None:
    with pytest.raises(MalformedResponse):
        downstream_headers([(b"x", b"1"), (name, b"1")], status=200)


@pytest.mark.parametrize(
    ("method", "status", "headers", "expected"),
    [
        ("GET", 200, [], True),
        ("HEAD", 404, [], True),
        ("POST", 200, [], False),
        ("GET", 302, [], False),
        ("GET", 301, [], True),
        ("GET", 200, [(b"cache-control", b"no-store")], False),
        ("GET", 200, [(b"cache-control", b"")], False),
    ],
)
def test_is_cacheable(method: str, status: int, headers: RawHeaders, expected: bool) -> None:
    assert is_cacheable(method, status, headers) is expected


# RequestInfo


def test_request_info_finds_the_first_header() -> None:
    request = RequestInfo(headers=[(b"x", b"1"), (b"x", b"2")])
    assert request.header(b"x") == b"1"
    assert request.header(b"y") is None
    assert RequestInfo().headers == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([b"a=1"], [b"1"]),
        ([b"b=0; a=1;a=2 ;  a=3"], [b"1", b"2", b"3"]),
        ([b"a=1", b"a=2"], [b"1", b"2"]),
        ([b"ba=1; a"], []),
        ([b"a=x=y; A=2"], [b"x=y"]),
        ([b"a="], [b""]),
        ([b'a="1"'], [b'"1"']),
    ],
)
def test_request_info_reads_cookies(headers: list[bytes], expected: list[bytes]) -> None:
    request = RequestInfo(headers=[(b"cookie", value) for value in headers])
    assert request.cookies(b"a") == expected


def test_request_info_is_secure_by_scheme() -> None:
    assert RequestInfo(scheme="https").is_secure
    assert not RequestInfo(scheme="http").is_secure


def test_reprs() -> None:
    assert repr(RequestInfo(method="PUT", path="/x")) == "<RequestInfo PUT '/x'>"
    assert repr(head((b"x", b"1"))) == "<RequestHead 2 fields>"


# What the review of odd requests has taught


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    read = head((b"host", b" test\t"), (b"content-length", b" 5 "))
    assert read.host == b"test"
    assert read.content_length == 5


def test_rule_12_names_in_capitals_are_checked_all_the_same() -> None:
    with pytest.raises(BadRequest):
        head((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"))


@pytest.mark.parametrize(
    "name",
    [b"x_forwarded_for", b"x_forwarded-proto", b"sticky_session", b"proxy_authorization"],
)
@pytest.mark.parametrize("is_trusted", [False, True])
def test_rule_5_names_that_look_alike_are_removed(name: bytes, is_trusted: bool) -> None:
    assert (name, b"x") not in forwarded((name, b"x"), is_trusted=is_trusted)


@pytest.mark.parametrize("name", [b"x-forwarded-ssl", b"x-forwarded-server", b"x_forwarded_ssl"])
def test_rule_5_the_whole_family_is_for_trusted_proxies(name: bytes) -> None:
    assert (name, b"on") not in forwarded((name, b"on"))
    assert (name, b"on") in forwarded((name, b"on"), is_trusted=True)


def test_rule_5_the_last_proxy_says_which_scheme_it_was() -> None:
    field = (b"x-forwarded-proto", b"http, https ")
    assert visitor_scheme("http", head(field).forwarded, is_trusted=True) == "https"


def test_rule_5_a_port_that_is_none_is_not_passed_on() -> None:
    fields = forwarded((b"x-forwarded-port", b"junk junk"), is_trusted=True)
    assert (b"x-forwarded-port", b"80") in fields


def test_rule_19_cookies_that_http_2_split_are_joined() -> None:
    crumbs = [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")]
    assert [v for n, v in head(*crumbs, version="2").headers if n == b"cookie"] == [b"a=1; b=2"]
    assert [v for n, v in head(*crumbs).headers if n == b"cookie"] == [b"a=1", b"b=2"]


def test_a_handshake_loses_what_is_of_one_connection() -> None:
    fields = [
        (b"host", b"test"),
        (b"sec-websocket-key", b"k"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"sec-websocket-accept", b"a"),
        (b"sec-websocket-protocol", b"v1, v2"),
        (b"sec-websocket-protocol", b"v3"),
        (b"content-length", b"0"),
        (b"origin", b"http://shop.test"),
    ]
    kept = [fields[0], *fields[5:7], fields[8]]
    assert handshake_headers(head(*fields), fields) == kept


@pytest.mark.parametrize("value", [b"", b" ", b",", b", ,"])
def test_a_handshake_that_offers_nothing_says_nothing(value: bytes) -> None:
    assert handshake_headers(head(), [(b"sec-websocket-protocol", value)]) == []
