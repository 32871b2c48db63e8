from __future__ import annotations

import gc
import hashlib
import string
import sys
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner
from itsdangerous.encoding import base64_decode

from sticky_asgi import Pool
from sticky_asgi.affinity import AffinityStatus, Resolution, SignedCookie
from sticky_asgi.affinity.codec import MAX_CACHED, MAX_COOKIES, Codec, Tokens
from sticky_asgi.affinity.cookie import CookieReport, CookieResolution
from sticky_asgi.request import RawHeader, RawHeaders, RequestInfo

from .contract import View, check_affinity

OLD = "an old secret of 24 byte"
NEW = "a new secret of 24 bytes"
START = 1_700_000_000.0
DAY = 86400
IDS = ("10.0.0.11:8000", "10.0.0.12:8000", "10.0.0.13:8000")


class Clock:
    """A wall clock that stands until it is told to tick."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class Later(SignedCookie):
    """What a release with a second format looks like."""

    formats = ("1", "2")


def shop() -> View:
    return View("shop", IDS)


def cookie(secrets: str | Sequence[str] = NEW, **options: Any) -> SignedCookie:
    options.setdefault("clock", Clock())
    return SignedCookie(secrets, **options)


def request(*values: str | bytes, name: str = "sticky_shop", scheme: str = "http") -> RequestInfo:
    raw = [value.encode("latin-1") if isinstance(value, str) else value for value in values]
    headers = [(b"cookie", name.encode() + b"=" + value) for value in raw]
    return RequestInfo(headers=headers, scheme=scheme)


def now_of(affinity: SignedCookie) -> float:
    return affinity.clock()


def set_cookie(headers: Sequence[RawHeader]) -> str:
    ((name, value),) = headers
    assert name == b"set-cookie"
    return value.decode("ascii")


def value_in(headers: Sequence[RawHeader]) -> str:
    return set_cookie(headers).partition("; ")[0].partition("=")[2]


def attributes_of(affinity: SignedCookie, *, scheme: str = "http") -> str:
    pool = shop()
    resolution = affinity.resolve(request(scheme=scheme), pool)
    issued = set_cookie(affinity.issue(resolution, pool.backends[0], now_of(affinity)))
    return issued.partition("; ")[2]


def issue(affinity: SignedCookie, pool: View, id: str = IDS[0], *values: str) -> str:
    """The value a visitor with these cookies gets when a backend answers."""
    name = affinity.cookie_name(pool)
    resolution = affinity.resolve(request(*values, name=name), pool)
    return value_in(affinity.issue(resolution, pool[id], now_of(affinity)))


def resolve(affinity: SignedCookie, pool: View, *values: str | bytes) -> Resolution:
    return affinity.resolve(request(*values, name=affinity.cookie_name(pool)), pool)


def status(affinity: SignedCookie, pool: View, *values: str | bytes) -> AffinityStatus:
    return resolve(affinity, pool, *values).status


# The contract every affinity keeps


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"idle_timeout": 60, "absolute_timeout": 600, "max_age": 60}, id="timeouts"),
        pytest.param({"forward": True, "name": "__Host-s"}, id="forward"),
    ],
)
def test_keeps_the_contract_of_affinities(options: dict[str, Any]) -> None:
    check_affinity(lambda: cookie(**options), now=START)


# Value


def test_new_visitor_gets_a_cookie_and_returns_to_the_backend_that_answered() -> None:
    affinity, pool = cookie(), shop()
    assert status(affinity, pool) is AffinityStatus.NEW
    for id in IDS:
        kept = resolve(affinity, pool, issue(affinity, pool, id))
        assert (kept.status, kept.backend_id) == (AffinityStatus.KEPT, id)


def test_value_is_what_itsdangerous_signs_with_sha256_and_a_salt_of_pool_and_format() -> None:
    signer = TimestampSigner(
        NEW,
        "sticky_asgi.affinity.1:shop",
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )
    payload, stamped = signer.unsign(issue(cookie(), shop()), return_timestamp=True)
    token, issued = payload.split(b".")
    assert len(base64_decode(token)) == 12
    assert int.from_bytes(base64_decode(issued), "big") == START
    assert stamped.timestamp() == START


def test_value_shows_neither_address_nor_index() -> None:
    affinity, pool = cookie(), shop()
    values = [issue(affinity, pool, id) for id in IDS]
    tokens = [base64_decode(value.partition(".")[0]) for value in values]
    for id, token in zip(IDS, tokens, strict=True):
        assert id.encode() not in token
        assert id.partition(":")[0] not in values[0]
    pool.replace(reversed(IDS))
    assert [issue(affinity, pool, id) for id in IDS] == values


def test_token_differs_per_pool_and_per_secret() -> None:
    def token(secret: str, name: str) -> str:
        return issue(cookie(secret), View(name, IDS)).partition(".")[0]

    assert len({token(s, name) for s in (OLD, NEW) for name in ("shop", "blog")}) == 4


def test_token_keeps_pool_name_and_backend_id_apart() -> None:
    one = issue(cookie(), View("ab", ["c"]), "c").partition(".")[0]
    other = issue(cookie(), View("a", ["bc"]), "bc").partition(".")[0]
    assert one != other


def test_two_objects_with_the_same_secrets_agree() -> None:
    clock = Clock()
    one, other = cookie([OLD, NEW], clock=clock), cookie([OLD, NEW], clock=clock)
    value = issue(one, shop())
    assert value == issue(other, shop())
    assert resolve(other, shop(), value).backend_id == IDS[0]


# Forgery


@given(data=st.data())
def test_tampering_at_any_position_is_refused(data: st.DataObject) -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool)
    at = data.draw(st.integers(0, len(value) - 1))
    junk = data.draw(st.characters(max_codepoint=255))
    tampered = data.draw(
        st.sampled_from(
            [
                value[:at] + junk + value[at + 1 :],
                value[:at] + junk + value[at:],
                value[:at] + value[at + 1 :],
                value[:at],
                value[at + 1 :],
            ]
        )
    )
    expected = AffinityStatus.KEPT if tampered == value else AffinityStatus.INVALID
    assert status(affinity, pool, tampered) is expected


@pytest.mark.parametrize("how", ["replace", "insert", "delete"])
def test_tampering_at_every_position_is_refused(how: str) -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool)
    assert status(affinity, pool, value) is AffinityStatus.KEPT  # and now cached
    alphabet = string.ascii_letters + string.digits + '-_.=+/"%\x00\xff' if how != "delete" else "x"
    for at in range(len(value) + (how == "insert")):
        for junk in alphabet:
            tampered = {
                "replace": value[:at] + junk + value[at + 1 :],
                "insert": value[:at] + junk + value[at:],
                "delete": value[:at] + value[at + 1 :],
            }[how]
            if tampered != value:
                assert status(affinity, pool, tampered) is AffinityStatus.INVALID, (at, junk)


@given(secret=st.text(min_size=16, max_size=40), name=st.text(string.ascii_letters, min_size=1))
def test_cookie_of_another_pool_or_secret_is_refused(secret: str, name: str) -> None:
    affinity, pool = cookie(name="s"), shop()
    value = issue(affinity, pool)
    if name != "shop":
        assert status(affinity, View(name, IDS), value) is AffinityStatus.INVALID
    if secret != NEW:
        assert status(cookie(secret, name="s"), pool, value) is AffinityStatus.INVALID


@given(value=st.binary(max_size=200))
def test_junk_is_invalid(value: bytes) -> None:
    assert status(cookie(), shop(), value) is AffinityStatus.INVALID


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda value: f'"{value}"', id="quoted"),
        pytest.param(lambda value: value + "=", id="padded"),
        pytest.param(lambda value: value + "." * 5000, id="huge"),
        pytest.param(lambda value: "", id="empty"),
    ],
)
def test_only_the_canonical_encoding_is_accepted(change: Any) -> None:
    affinity, pool = cookie(), shop()
    assert status(affinity, pool, change(issue(affinity, pool))) is AffinityStatus.INVALID


def test_huge_value_is_not_even_hashed() -> None:
    hashed = []

    def trace(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "get_signature":
            hashed.append(frame)

    affinity, pool = cookie(), shop()
    sys.setprofile(trace)
    try:
        assert status(affinity, pool, "a.b" * 2000) is AffinityStatus.INVALID
        assert not hashed
        assert status(affinity, pool, "a.b" * 1000) is AffinityStatus.INVALID
    finally:
        sys.setprofile(None)
    assert hashed


def test_forged_cookie_starts_a_new_session() -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool, IDS[1], "forged")
    assert resolve(affinity, pool, value).backend_id == IDS[1]


# Rotation of secrets and formats


def test_cookie_under_an_old_secret_is_honoured_and_rewritten_until_the_secret_goes() -> None:
    pool = shop()
    before, during, after = cookie(OLD), cookie([OLD, NEW]), cookie([NEW])
    value = issue(before, pool, IDS[2])

    kept = resolve(during, pool, value)
    assert (kept.status, kept.backend_id) == (AffinityStatus.KEPT, IDS[2])
    rewritten = value_in(during.issue(kept, pool[IDS[2]], START))
    again = resolve(during, pool, rewritten)
    assert (again.status, during.issue(again, pool[IDS[2]], START)) == (AffinityStatus.KEPT, [])

    assert status(after, pool, value) is AffinityStatus.INVALID
    assert resolve(after, pool, rewritten).backend_id == IDS[2]


def test_newest_secret_signs_and_every_secret_verifies() -> None:
    pool = shop()
    secrets = [f"secret number {n} of many" for n in range(4)]
    assert issue(cookie(secrets), pool) == issue(cookie(secrets[-1]), pool)
    for secret in secrets:
        assert status(cookie(secrets), pool, issue(cookie(secret), pool)) is AffinityStatus.KEPT


def test_cookie_of_an_older_format_is_honoured_and_rewritten() -> None:
    pool, later = shop(), Later([OLD, NEW], clock=Clock())
    for secret in (OLD, NEW):
        value = issue(cookie(secret), pool, IDS[1])
        kept = resolve(later, pool, value)
        assert (kept.status, kept.backend_id) == (AffinityStatus.KEPT, IDS[1])
        rewritten = value_in(later.issue(kept, pool[IDS[1]], START))
        again = resolve(later, pool, rewritten)
        assert (again.backend_id, later.issue(again, pool[IDS[1]], START)) == (IDS[1], [])
        assert later.inspect(rewritten, pool).format == "2"
        assert status(cookie([OLD, NEW]), pool, rewritten) is AffinityStatus.INVALID


def test_rewriting_keeps_the_first_issued_time() -> None:
    clock, pool = Clock(), shop()
    value = issue(cookie(OLD, clock=clock), pool)
    clock.tick(100)
    during = cookie([OLD, NEW], clock=clock)
    report = during.inspect(issue(during, pool, IDS[0], value), pool)
    assert report.first_issued == datetime.fromtimestamp(START, UTC)
    assert report.last_stamped == datetime.fromtimestamp(START + 100, UTC)


# When Set-Cookie is sent


def test_kept_visitor_gets_no_cookie() -> None:
    clock = Clock()
    affinity, pool = cookie(clock=clock, absolute_timeout=DAY, max_age=60), shop()
    value = issue(affinity, pool)
    clock.tick(DAY - 1)
    kept = resolve(affinity, pool, value)
    assert affinity.issue(kept, pool[IDS[0]], clock()) == []


@pytest.mark.parametrize("outcome", [AffinityStatus.MOVED, AffinityStatus.LOST])
def test_visitor_who_went_elsewhere_gets_one_cookie_naming_the_backend_that_answered(
    outcome: AffinityStatus,
) -> None:
    clock = Clock()
    affinity, pool = cookie(clock=clock), shop()
    resolution = resolve(affinity, pool, issue(affinity, pool, IDS[0]))
    resolution.status = outcome
    clock.tick(50)
    value = value_in(affinity.issue(resolution, pool[IDS[1]], clock()))
    assert affinity.inspect(value, pool) == CookieReport(
        pool="shop",
        status="valid",
        backend_id=IDS[1],
        first_issued=datetime.fromtimestamp(START + 50, UTC),
        last_stamped=datetime.fromtimestamp(START + 50, UTC),
        secret=0,
        format="1",
    )


def test_another_backend_than_resolved_is_named_even_if_the_status_says_kept() -> None:
    affinity, pool = cookie(), shop()
    kept = resolve(affinity, pool, issue(affinity, pool, IDS[0]))
    value = value_in(affinity.issue(kept, pool[IDS[2]], START))
    assert resolve(affinity, pool, value).backend_id == IDS[2]


def test_backend_that_left_the_snapshot_while_it_answered_can_be_named() -> None:
    affinity, pool = cookie(), shop()
    backend = pool[IDS[0]]
    kept = resolve(affinity, pool, issue(affinity, pool, IDS[1]))
    pool.replace(IDS[1:])
    assert status(affinity, pool, issue(affinity, pool, IDS[1])) is AffinityStatus.KEPT
    value = value_in(affinity.issue(kept, backend, START))
    assert status(affinity, pool, value) is AffinityStatus.LOST
    pool.replace(IDS)
    assert resolve(affinity, pool, value).backend_id == IDS[0]


def test_bypassed_request_gets_no_cookie() -> None:
    affinity, pool = cookie(), shop()
    assert affinity.issue(Resolution(AffinityStatus.BYPASSED), pool.backends[0], START) == []


def test_resolution_of_another_affinity_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot issue"):
        cookie().issue(Resolution(AffinityStatus.NEW), shop().backends[0], START)


# Timeouts


@pytest.mark.parametrize(
    ("elapsed", "renewed"),
    [pytest.param(99, False, id="before"), pytest.param(100, True, id="a tenth"),
     pytest.param(1000, True, id="at the end")],
)  # fmt: skip
def test_cookie_is_renewed_when_a_tenth_of_the_idle_timeout_has_passed(
    elapsed: float, renewed: bool
) -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=1000, clock=clock), shop()
    value = issue(affinity, pool)
    clock.tick(elapsed)
    kept = resolve(affinity, pool, value)
    assert kept.status is AffinityStatus.KEPT
    assert len(affinity.issue(kept, pool[IDS[0]], clock())) == renewed


def test_idle_session_expires_and_a_used_one_does_not() -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=1000, clock=clock), shop()
    first = value = issue(affinity, pool)
    for _ in range(5):
        clock.tick(900)
        value = issue(affinity, pool, IDS[0], value)
    assert status(affinity, pool, first) is AffinityStatus.EXPIRED
    clock.tick(1000)
    assert status(affinity, pool, value) is AffinityStatus.KEPT
    clock.tick(1)
    expired = resolve(affinity, pool, value)
    assert (expired.status, expired.backend_id) == (AffinityStatus.EXPIRED, None)


def test_session_expires_absolutely_however_much_it_is_used() -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=1000, absolute_timeout=2000, clock=clock), shop()
    value = issue(affinity, pool)
    for _ in range(4):
        clock.tick(500)
        value = issue(affinity, pool, IDS[0], value)
    clock.tick(1)
    assert status(affinity, pool, value) is AffinityStatus.EXPIRED
    report = affinity.inspect(issue(affinity, pool, IDS[1], value), pool)
    assert (report.status, report.backend_id) == ("valid", IDS[1])
    assert report.first_issued == datetime.fromtimestamp(clock.now, UTC)


def test_move_begins_the_absolute_timeout_anew() -> None:
    clock = Clock()
    affinity, pool = cookie(absolute_timeout=1000, clock=clock), shop()
    resolution = resolve(affinity, pool, issue(affinity, pool))
    clock.tick(900)
    resolution.status = AffinityStatus.MOVED
    value = value_in(affinity.issue(resolution, pool[IDS[1]], clock()))
    clock.tick(900)
    assert status(affinity, pool, value) is AffinityStatus.KEPT


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [pytest.param(DAY, AffinityStatus.KEPT, id="24 h"),
     pytest.param(DAY + 1, AffinityStatus.INVALID, id="over 24 h")],
)  # fmt: skip
def test_timestamp_more_than_a_day_ahead_is_invalid(ahead: float, expected: AffinityStatus) -> None:
    fast, pool = cookie(clock=Clock(START + ahead)), shop()
    assert status(cookie(), pool, issue(fast, pool)) is expected


def test_first_issue_more_than_a_day_ahead_is_invalid() -> None:
    clock, pool = Clock(START + 2 * DAY), shop()
    writer = cookie([OLD, NEW], clock=clock)
    value = issue(cookie(OLD, clock=clock), pool)
    kept = resolve(writer, pool, value)
    clock.now = START
    rewritten = value_in(writer.issue(kept, pool[IDS[0]], START))
    assert writer.inspect(rewritten, pool).last_stamped == datetime.fromtimestamp(START, UTC)
    assert status(writer, pool, rewritten) is AffinityStatus.INVALID


def test_stamp_more_than_a_day_ahead_of_now_is_invalid_in_an_old_session_too() -> None:
    clock, pool = Clock(), shop()
    affinity = cookie(idle_timeout=100 * DAY, clock=clock)
    value = issue(affinity, pool)
    clock.tick(11 * DAY)
    value = issue(affinity, pool, IDS[0], value)
    clock.tick(-11 * DAY)
    assert status(affinity, pool, value) is AffinityStatus.INVALID


def test_broken_clock_makes_cookies_invalid_and_raises_nothing() -> None:
    broken, pool = cookie(clock=Clock(1e15)), shop()
    value = issue(broken, pool)
    assert status(broken, pool, value) is AffinityStatus.INVALID
    assert broken.inspect(value, pool).status == "invalid"


def test_time_is_checked_on_remembered_values_too() -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=10, clock=clock), shop()
    value = issue(affinity, pool)
    seen = []
    for _ in range(3):
        seen.append(status(affinity, pool, value))
        clock.tick(10)
    assert seen == [AffinityStatus.KEPT, AffinityStatus.KEPT, AffinityStatus.EXPIRED]


# Several cookies


def test_first_good_cookie_of_several_wins() -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=100, clock=clock), shop()
    expired = issue(affinity, pool, IDS[0])
    clock.tick(101)
    a, b = issue(affinity, pool, IDS[1]), issue(affinity, pool, IDS[2])
    assert resolve(affinity, pool, "forged", expired, a, b).backend_id == IDS[1]
    assert resolve(affinity, pool, b, a).backend_id == IDS[2]


def test_good_cookie_wins_over_a_lost_one_before_it() -> None:
    """Otherwise a stale cookie of a longer path would move the visitor at every request."""
    affinity, pool = cookie(), shop()
    lost, good = issue(affinity, pool, IDS[0]), issue(affinity, pool, IDS[1])
    pool.replace(IDS[1:])
    assert resolve(affinity, pool, lost, good).backend_id == IDS[1]


def test_status_of_several_bad_cookies_is_the_most_telling_one() -> None:
    clock = Clock()
    affinity, pool = cookie(idle_timeout=100, clock=clock), shop()
    expired = issue(affinity, pool)
    clock.tick(101)
    lost = issue(affinity, pool, IDS[2])
    pool.replace(IDS[:2])
    assert status(affinity, pool, "forged", expired) is AffinityStatus.EXPIRED
    assert status(affinity, pool, expired, "forged") is AffinityStatus.EXPIRED
    assert status(affinity, pool, lost, expired, "forged") is AffinityStatus.LOST
    assert status(affinity, pool, "forged", "") is AffinityStatus.INVALID


def test_several_cookies_in_one_header() -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool)
    header = f"sticky_shop=x; a=b; sticky_shop={value}; c=d".encode()
    resolution = affinity.resolve(RequestInfo(headers=[(b"cookie", header)]), pool)
    assert resolution.backend_id == IDS[0]


def test_number_of_cookies_looked_at_is_bounded() -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool)
    assert status(affinity, pool, *["x"] * (MAX_COOKIES - 1), value) is AffinityStatus.KEPT
    assert status(affinity, pool, *["x"] * MAX_COOKIES, value) is AffinityStatus.INVALID


def test_long_headers_are_not_remembered() -> None:
    """Whoever sends them would fill the memory with what nobody sends again."""
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool)
    codec = affinity._codec(pool)
    for number in range(3):
        header = f"a={number}{'x' * MAX_CACHED}; sticky_shop={value}".encode()
        headers = [(b"cookie", header)]
        resolution = affinity.resolve(RequestInfo(headers=headers), pool)
        assert resolution.backend_id == IDS[0]
        assert affinity.strip(headers, pool) == [(b"cookie", header.partition(b";")[0])]
    assert codec._split.cache_info().currsize == 0
    assert codec._claims.cache_info().currsize == 0


# Pools


def test_backend_that_left_is_lost_and_kept_again_when_it_returns() -> None:
    affinity, pool = cookie(), shop()
    value = issue(affinity, pool, IDS[0])
    assert status(affinity, pool, value) is AffinityStatus.KEPT
    pool.replace(IDS[1:])
    lost = resolve(affinity, pool, value)
    assert (lost.status, lost.backend_id) == (AffinityStatus.LOST, None)
    pool.replace(IDS)
    assert resolve(affinity, pool, value).backend_id == IDS[0]


def test_pools_of_one_name_may_share_the_object() -> None:
    affinity = cookie()
    one, other = View("shop", IDS[:2]), View("shop", IDS[1:])
    value = issue(affinity, one, IDS[0])
    for _ in range(2):
        assert status(affinity, one, value) is AffinityStatus.KEPT
        assert status(affinity, other, value) is AffinityStatus.LOST


def test_a_pool_holds_nothing_of_an_affinity_it_has_left() -> None:
    """As after each reload of a configuration."""

    def codecs() -> int:
        gc.collect()
        return sum(isinstance(item, Codec) for item in gc.get_objects())

    before = codecs()
    pool = Pool("shop", ["http://127.0.0.1:9"])
    for _ in range(5):
        pool.adopt(Pool("shop", ["http://127.0.0.1:9"], affinity=SignedCookie(b"k" * 16)))
        pool.visitors.resolve(RequestInfo())
    assert codecs() == before + 1


def test_pools_are_held_weakly() -> None:
    affinity, pool = cookie(), shop()
    resolve(affinity, pool, issue(affinity, pool))
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


def test_change_of_one_backend_among_thousands_hashes_only_that_one() -> None:
    affinity = cookie()
    ids = [f"host-{n}:80" for n in range(10_000)]
    pool = View("shop", ids)
    value = issue(affinity, pool, ids[0])
    resolution = resolve(affinity, pool, value)
    assert isinstance(resolution, CookieResolution)
    tokens = resolution.codec.newest.tokens
    kept = dict(tokens._tokens)

    pool.replace([*ids[1:], "fresh:80"])
    assert status(affinity, pool, value) is AffinityStatus.LOST
    assert len(tokens._tokens) == len(tokens._ids) == 10_000
    assert [id for id, token in tokens._tokens.items() if kept.get(id) is not token] == ["fresh:80"]


def test_the_same_options_make_equals() -> None:
    one, other = SignedCookie([OLD, NEW], max_age=60), SignedCookie([OLD, NEW], max_age=60)
    issue(one, shop(), IDS[1])
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    "options",
    [
        {"secrets": OLD},
        {"secrets": [NEW, OLD]},
        {"name": "own"},
        {"path": "/shop"},
        {"domain": "example.test"},
        {"secure": True},
        {"secure": False},
        {"http_only": False},
        {"same_site": "strict"},
        {"partitioned": True},
        {"max_age": 60},
        {"idle_timeout": 60},
        {"absolute_timeout": 60},
        {"on_lost": "reject"},
        {"forward": True},
        {"announce": True},
        {"private": False},
        {"clock": Clock()},
    ],
    ids=lambda options: str(*options),
)
def test_other_options_make_others(options: dict[str, Any]) -> None:
    assert SignedCookie(**{"secrets": NEW} | options) != SignedCookie(NEW)


def test_what_the_first_visitor_would_wait_for_can_be_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    affinity, pool = cookie([OLD, NEW]), shop()
    value = issue(cookie(OLD), pool, IDS[1])
    affinity.prepare(pool)
    monkeypatch.delattr(Tokens, "_hash")
    assert status(affinity, pool, value) is AffinityStatus.KEPT


# Name


@pytest.mark.parametrize(
    ("pool_name", "expected"),
    [
        pytest.param("shop", "sticky_shop", id="plain"),
        pytest.param("shop-1.eu", "sticky_shop-1.eu", id="token characters"),
        pytest.param("my shop", "sticky_my_shop~21e02318", id="space"),
        pytest.param("my;shop", "sticky_my_shop~eec20857", id="semicolon"),
        pytest.param("käse", "sticky_k_se~28f37578", id="not ASCII"),
    ],
)
def test_default_name_derives_from_the_pools(pool_name: str, expected: str) -> None:
    assert cookie().cookie_name(View(pool_name, IDS)) == expected


@given(st.text(max_size=8), st.text(max_size=8))
def test_default_names_are_tokens_and_do_not_collide(one: str, other: str) -> None:
    try:
        names = {cookie().cookie_name(View(name, [])) for name in (one, other)}
    except UnicodeEncodeError:
        return  # lone surrogates are no pool name
    assert len(names) == len({one, other})
    for name in names:
        SignedCookie(NEW, name=name)


def test_name_that_looks_like_a_derived_one_does_not_collide_with_it() -> None:
    derived = cookie().cookie_name(View("my shop", IDS)).removeprefix("sticky_")
    assert cookie().cookie_name(View(derived, IDS)) != f"sticky_{derived}"


def test_given_name_serves_every_pool() -> None:
    affinity, pool = cookie(name="s"), shop()
    assert affinity.cookie_name(pool) == "s"
    header = affinity.issue(resolve(affinity, pool), pool.backends[0], START)
    assert set_cookie(header).startswith("s=")


# Attributes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, "Path=/; SameSite=Lax; HttpOnly", id="defaults"),
        pytest.param({"same_site": None, "http_only": False}, "Path=/", id="bare"),
        pytest.param({"same_site": "strict"}, "Path=/; SameSite=Strict; HttpOnly", id="strict"),
        pytest.param({"same_site": "none"}, "Path=/; SameSite=None; Secure; HttpOnly", id="none"),
        pytest.param(
            {"partitioned": True},
            "Path=/; SameSite=Lax; Secure; HttpOnly; Partitioned",
            id="partitioned",
        ),
        pytest.param({"secure": True}, "Path=/; SameSite=Lax; Secure; HttpOnly", id="secure"),
        pytest.param(
            {"name": "__Host-s"}, "Path=/; SameSite=Lax; Secure; HttpOnly", id="host prefix"
        ),
        pytest.param(
            {"name": "__secURE-s", "path": "/a"},
            "Path=/a; SameSite=Lax; Secure; HttpOnly",
            id="secure prefix",
        ),
        pytest.param(
            {"path": "/app", "domain": "shop.example", "max_age": 3600.0, "secure": True,
             "same_site": "none", "partitioned": True},
            "Path=/app; Domain=shop.example; Max-Age=3600; SameSite=None; Secure; HttpOnly;"
            " Partitioned",
            id="all",
        ),
    ],
)  # fmt: skip
def test_attributes_come_in_a_fixed_order(options: dict[str, Any], expected: str) -> None:
    assert attributes_of(cookie(**options)) == expected


@pytest.mark.parametrize(
    ("secure", "scheme", "expected"),
    [
        pytest.param("auto", "http", False, id="auto http"),
        pytest.param("auto", "https", True, id="auto https"),
        pytest.param(True, "http", True, id="on http"),
        pytest.param(False, "https", False, id="off https"),
    ],
)
def test_secure_follows_the_scheme_the_visitor_used(
    secure: Any, scheme: str, expected: bool
) -> None:
    assert ("Secure" in attributes_of(cookie(secure=secure), scheme=scheme)) is expected


def test_optional_attributes_of_the_protocol() -> None:
    affinity = cookie()
    assert (affinity.on_lost, affinity.announce, affinity.private) == ("rebalance", False, True)
    affinity = cookie(on_lost="reject", announce=True, private=False)
    assert (affinity.on_lost, affinity.announce, affinity.private) == ("reject", True, False)


# Strip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"sticky_shop=x", None, id="alone"),
        pytest.param(b"sticky_shop=x; ", None, id="trailing separator"),
        pytest.param(b"; sticky_shop=x ;; ", None, id="nothing but separators left"),
        pytest.param(b"sticky_shop=x; sticky_shop=y", None, id="twice"),
        pytest.param(b"sticky_shop=x; a=1", b"a=1", id="first"),
        pytest.param(b"a=1; sticky_shop=x", b"a=1", id="last"),
        pytest.param(b"a=1; sticky_shop=x; b=2", b"a=1; b=2", id="between"),
        pytest.param(b"a=1;sticky_shop=;b=2", b"a=1;b=2", id="tight"),
        pytest.param(b"a=\xff\x80 ;  b = 2;;sticky_shop=x;c", b"a=\xff\x80 ;  b = 2;;c", id="odd"),
    ],
)
def test_strip_removes_the_cookie_and_leaves_the_others_byte_for_byte(
    before: bytes, after: bytes | None
) -> None:
    headers = [(b"host", b"h"), (b"cookie", before), (b"x", b"sticky_shop=x")]
    expected = [(b"host", b"h"), (b"cookie", after), (b"x", b"sticky_shop=x")]
    if after is None:
        del expected[1]
    assert cookie().strip(headers, shop()) == expected


@pytest.mark.parametrize(
    "value", [b"", b"a=1", b"xsticky_shop=1", b"sticky_shop2=1", b"a=sticky_shop=1", b"sticky_shop"]
)
def test_strip_returns_the_same_list_when_there_is_nothing_to_remove(value: bytes) -> None:
    headers = [(b"cookie", value), (b"x-sticky_shop", b"sticky_shop=1")]
    assert cookie().strip(headers, shop()) is headers


def test_strip_leaves_the_cookie_with_forward() -> None:
    headers = [(b"cookie", b"sticky_shop=1")]
    assert cookie(forward=True).strip(headers, shop()) is headers


PAIRS = st.sampled_from(
    [b"a=1", b"sticky_shop=v", b"sticky_shop=", b"sticky_shop", b"Sticky_shop=1", b"", b"=",
     b'q="x y"', b"b=sticky_shop=1", b"\xe4=\xff"]
)  # fmt: skip
PADS = st.sampled_from([b"", b" ", b"\t", b"  "])
HEADERS = st.tuples(
    st.sampled_from([b"cookie", b"cookie2", b"x-a"]),
    st.lists(st.tuples(PADS, PAIRS, PADS).map(b"".join), max_size=5).map(b";".join),
)


@given(st.lists(HEADERS, max_size=5))
def test_strip_agrees_with_a_naive_model(headers: RawHeaders) -> None:
    def others(headers: RawHeaders) -> list[RawHeader]:
        return [
            (name, pair)
            for name, value in headers
            for pair in (value.split(b";") if name == b"cookie" else [value])
            if name != b"cookie" or pair.strip(b" \t")
        ]

    def is_ours(header: RawHeader) -> bool:
        name, pair = header
        return name == b"cookie" and pair.strip(b" \t").startswith(b"sticky_shop=")

    def trimmed(found: list[RawHeader]) -> list[RawHeader]:
        return [(n, v.lstrip(b" \t") if n == b"cookie" else v) for n, v in found]

    affinity, pool, before = cookie(), shop(), list(headers)
    stripped = affinity.strip(headers, pool)
    assert headers == before
    # Only the blanks before a header's first cookie are nobody's.
    assert trimmed(others(stripped)) == trimmed([h for h in others(headers) if not is_ours(h)])
    assert (stripped is headers) is not any(is_ours(h) for h in others(headers))
    assert RequestInfo(headers=stripped).cookies(b"sticky_shop") == []


# Operators


def test_inspect_reads_a_valid_cookie() -> None:
    clock, pool = Clock(), shop()
    affinity = cookie([OLD, NEW], clock=clock)
    value = issue(cookie(OLD, clock=clock), pool, IDS[1])
    clock.tick(10)
    assert affinity.inspect(f" {value}\n", pool) == CookieReport(
        pool="shop",
        status="valid",
        backend_id=IDS[1],
        first_issued=datetime.fromtimestamp(START, UTC),
        last_stamped=datetime.fromtimestamp(START, UTC),
        secret=0,
        format="1",
    )


def test_inspect_says_what_is_wrong_with_a_cookie() -> None:
    clock, pool = Clock(), shop()
    affinity = cookie(idle_timeout=100, clock=clock)
    value = issue(affinity, pool)
    assert affinity.inspect(value, View("blog", IDS)).status == "invalid"
    assert affinity.inspect("käse\udc80", pool) == CookieReport(pool="shop", status="invalid")
    pool.replace(IDS[1:])
    lost = affinity.inspect(value, pool)
    assert (lost.status, lost.backend_id, lost.secret) == ("lost", None, 0)
    pool.replace(IDS)
    clock.tick(101)
    expired = affinity.inspect(value, pool)
    assert (expired.status, expired.backend_id) == ("expired", IDS[0])
    clock.now = START - 2 * DAY
    assert affinity.inspect(value, pool).status == "invalid"


def test_repr_masks_the_secrets() -> None:
    assert repr(cookie([OLD, NEW], name="shop")) == "<SignedCookie name='shop' 2 secrets>"
    assert repr(cookie()) == "<SignedCookie name=None 1 secret>"
    affinity, pool = cookie([OLD, NEW]), shop()
    kept = resolve(affinity, pool, issue(affinity, pool))
    assert repr(kept) == "<CookieResolution kept backend_id='10.0.0.11:8000'>"


# Construction


@pytest.mark.parametrize(
    ("secrets", "error", "message"),
    [
        pytest.param(
            "", ValueError, r"secrets\[0\] must have at least 16 bytes, got 0", id="empty"
        ),
        pytest.param("hunter2", ValueError, r"secrets\[0\] .* got 7", id="short"),
        pytest.param([NEW, b"hunter2"], ValueError, r"secrets\[1\] .* got 7", id="one short"),
        pytest.param([], ValueError, "at least one secret", id="none"),
        pytest.param(None, TypeError, "not NoneType", id="None"),
        pytest.param({NEW, OLD}, TypeError, "not set", id="without order"),
        pytest.param(bytearray(32), TypeError, r"secrets\[0\] must be .* not int", id="bytearray"),
        pytest.param([NEW, 12345678901234567], TypeError, r"secrets\[1\] .* not int", id="number"),
    ],
)
def test_secrets_are_checked_and_never_shown(secrets: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        SignedCookie(secrets)
    for secret in ("hunter2", OLD, NEW, "12345678901234567"):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "secrets",
    [pytest.param("k" * 16, id="str"), pytest.param(b"\xff" * 16, id="bytes"),
     pytest.param(("ä" * 8,), id="bytes count"), pytest.param("\udcff" * 16, id="surrogates")],
)  # fmt: skip
def test_secrets_may_be_text_or_bytes(secrets: Any) -> None:
    affinity, pool = cookie(secrets), shop()
    assert status(affinity, pool, issue(affinity, pool)) is AffinityStatus.KEPT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"name": ""}, "name .* got ''", id="name empty"),
        pytest.param({"name": "a b"}, "name .* got 'a b'", id="name space"),
        pytest.param({"name": "a=b"}, "name .* got 'a=b'", id="name equals"),
        pytest.param({"name": "a\n"}, r"name .* got 'a\\n'", id="name control"),
        pytest.param({"name": "ä"}, "name .* got 'ä'", id="name not ASCII"),
        pytest.param({"path": ""}, "path .* got ''", id="path empty"),
        pytest.param({"path": "app"}, "path .* got 'app'", id="path relative"),
        pytest.param({"path": "/;x"}, "path .* got '/;x'", id="path semicolon"),
        pytest.param({"path": "/a\r\n"}, "path .* got", id="path control"),
        pytest.param({"path": "/ä"}, "path .* got '/ä'", id="path not ASCII"),
        pytest.param({"domain": ""}, "domain .* got ''", id="domain empty"),
        pytest.param({"domain": "a b"}, "domain .* got 'a b'", id="domain space"),
        pytest.param({"domain": "a;b"}, "domain .* got 'a;b'", id="domain semicolon"),
        pytest.param({"domain": "a\x00"}, "domain .* got", id="domain control"),
        pytest.param({"domain": "a\x7f"}, "domain .* got", id="domain delete"),
        pytest.param({"domain": "a/b"}, "domain .* got 'a/b'", id="domain slash"),
        pytest.param({"domain": "a..b"}, "domain .* got 'a..b'", id="domain empty label"),
        pytest.param({"domain": "a.example."}, "domain .* got 'a.example.'", id="domain dot"),
        pytest.param({"domain": "a.example:80"}, "domain .* got", id="domain port"),
        pytest.param({"domain": "käse.example"}, "domain .* got", id="domain not ASCII"),
        pytest.param({"secure": "yes"}, "secure .* got 'yes'", id="secure unknown"),
        pytest.param({"secure": 1}, "secure .* got 1", id="secure number"),
        pytest.param({"same_site": "Lax"}, "same_site .* got 'Lax'", id="same_site case"),
        pytest.param({"same_site": False}, "same_site .* got False", id="same_site bool"),
        pytest.param(
            {"secure": False, "same_site": "none"}, "secure=False.*same_site='none'", id="none"
        ),
        pytest.param(
            {"secure": False, "partitioned": True}, "secure=False.*partitioned", id="partitioned"
        ),
        pytest.param({"secure": False, "name": "__Host-a"}, "secure=False.*__Host-a", id="__Host-"),
        pytest.param(
            {"secure": False, "name": "__SECURE-a"}, "secure=False.*__SECURE-a", id="__Secure-"
        ),
        pytest.param({"name": "__Host-a", "path": "/x"}, "__Host-a.*'/x'", id="__Host- path"),
        pytest.param({"name": "__hOST-a", "domain": "d"}, "__hOST-a.*'d'", id="__Host- domain"),
        pytest.param({"max_age": 0}, "max_age .* got 0", id="max_age zero"),
        pytest.param({"max_age": 1.5}, "max_age .* got 1.5", id="max_age fraction"),
        pytest.param({"idle_timeout": -1}, "idle_timeout .* got -1", id="idle negative"),
        pytest.param({"idle_timeout": float("nan")}, "idle_timeout .* got nan", id="idle nan"),
        pytest.param(
            {"absolute_timeout": float("inf")}, "absolute_timeout .* got inf", id="absolute inf"
        ),
        pytest.param({"on_lost": "explode"}, "on_lost .* got 'explode'", id="on_lost"),
    ],
)
def test_values_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cookie(**options)


@pytest.mark.parametrize(
    "parameter",
    ["name", "path", "domain", "http_only", "partitioned", "max_age", "idle_timeout",
     "absolute_timeout", "forward", "announce", "private", "clock"],
)  # fmt: skip
def test_values_of_the_wrong_type_are_refused(parameter: str) -> None:
    wrong: Any = True if parameter in ("max_age", "idle_timeout", "absolute_timeout") else 1
    with pytest.raises(TypeError, match=f"{parameter} must be .* got {wrong}"):
        cookie(**{parameter: wrong})


def test_on_lost_may_be_a_callable() -> None:
    def on_lost(status: AffinityStatus, request: RequestInfo) -> Any:
        return "reject" if request.path == "/api" else "rebalance"

    assert cookie(on_lost=on_lost).on_lost is on_lost
