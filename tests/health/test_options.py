"""Options say at construction what is wrong with them, and read what they are given."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from sticky_asgi import Backend, Ejection, HealthCheck, Pool
from sticky_asgi.health import CheckResult, drain_wish
from sticky_asgi.health.check import statuses_of
from sticky_asgi.health.slow_start import share_after

NO_NUMBERS: list[Any] = [True, "5", math.nan, math.inf, -1, b"5"]


async def passes(backend: Backend) -> bool:
    return True


def bad(names: list[str], values: list[Any]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}-{value!r}") for name in names for value in values]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *bad(["interval", "down_interval", "timeout"], [*NO_NUMBERS, 0]),
        *bad(["jitter"], [*NO_NUMBERS, 1.01]),
        *bad(["rise", "fall"], [*NO_NUMBERS, 0, 1.5, None]),
        *bad(["path"], ["", "x", "/a b", "/a\r\n", "/ä", None, b"/"]),
        *bad(["method"], ["", "G T", None, "GET\r\n"]),
        *bad(["host"], ["", "a b", "a\r\n", 5]),
        *bad(["expect"], ["", "20x", "200-", "399-200", "99", "600", "200,,204", 200, None]),
        *bad(["contains"], ["", 5, b"x"]),
        *bad(["initial"], ["down", None]),
        *bad(["tcp", "drain_on_404"], ["yes", 1, None]),
        *bad(["check"], ["passes", 5]),
    ],
)
def test_a_health_check_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        HealthCheck(**{name: value})
    assert str(caught.value).startswith(f"{name} must ")
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        pytest.param({"Host": "x"}, "'Host'", id="host"),
        pytest.param({"content-length": "5"}, "'content-length'", id="framing"),
        pytest.param([("a b", "x")], "'a b'", id="name"),
        pytest.param({"a": "x\r\nb: y"}, "'x\\r\\nb: y'", id="value"),
        pytest.param({"a": 5}, "5", id="number"),
        pytest.param(5, "5", id="no-mapping"),
    ],
)
def test_a_health_check_refuses_headers(headers: Any, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        HealthCheck(headers=headers)
    assert str(caught.value).startswith("headers must ")
    assert str(caught.value).endswith(f"got {shown}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"tcp": True, "path": "/x"}, "path '/x' is pointless with tcp", id="tcp"),
        pytest.param({"check": passes, "expect": "204"}, "expect '204' is pointless", id="own"),
        pytest.param({"check": passes, "tcp": True}, "pointless with tcp=True", id="both"),
        pytest.param({"method": "HEAD", "contains": "x"}, "contains 'x' is pointless", id="head"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HealthCheck(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *bad(["failures", "min_requests"], [*NO_NUMBERS, 0, 1.5]),
        *bad(["min_requests"], [None]),
        *bad(["window", "duration", "max_duration"], [*NO_NUMBERS, 0]),
        *bad(["window", "duration"], [None]),
        *bad(["failure_share"], [*NO_NUMBERS, 0, 1.01]),
        *bad(["max_share"], [*NO_NUMBERS, 1.01, None]),
        *bad(["max_duration"], [29]),
    ],
)
def test_an_ejection_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Ejection(**{name: value})
    assert str(caught.value).startswith(f"{name} must ")
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("statuses", "shown"),
    [([404], "404"), ([600], "600"), ([True], "True"), (["500"], "'500'"), (500, "500")],
)
def test_an_ejection_refuses_statuses(statuses: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"^statuses must .* got {shown}$"):
        Ejection(statuses=statuses)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"panic": "some"}, ValueError, "panic must .* got 'some'", id="panic"),
        pytest.param({"slow_start": 0}, ValueError, "slow_start must .* got 0", id="slow-start"),
        pytest.param({"slow_start": "5"}, ValueError, "slow_start must .* got '5'", id="text"),
        pytest.param({"drain_header": 1}, ValueError, "drain_header must .* got 1", id="header"),
        pytest.param({"ejection": 5}, TypeError, "ejection must be Ejection or None", id="type"),
        pytest.param(
            {"health_check": "/x"}, TypeError, "health_check must be HealthCheck or None", id="path"
        ),
    ],
)
def test_a_pool_refuses(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pool("shop", [], **options)


@pytest.mark.parametrize("value", [-1, 1.5, True, "1", None])
def test_a_backend_refuses_priorities(value: Any) -> None:
    with pytest.raises(ValueError, match=f"priority must .* got {value!r}"):
        Backend("http://a", priority=value)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(HealthCheck(), "interval", id="check"),
        pytest.param(Ejection(), "window", id="ejection"),
    ],
)
def test_options_are_frozen_and_can_be_compared(options: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(options, name, 1)
    assert type(options)() == options
    assert hash(options) == hash(type(options)())


def test_defaults() -> None:
    pool = Pool("shop", [])
    assert (pool.health_check, pool.ejection, pool.panic) == (None, Ejection(), "none")
    assert (pool.slow_start, pool.drain_header) == (10, False)
    assert Ejection().longest == 300
    assert Ejection(duration=1).longest == 10
    assert repr(Backend("http://a", priority=2)) == "<Backend 'a:80' http://a weight=1 priority=2>"


# What a check means


@pytest.mark.parametrize(
    ("expect", "statuses"),
    [
        pytest.param("200", {200}, id="one"),
        pytest.param("200,204", {200, 204}, id="two"),
        pytest.param(" 200 - 202 , 304 ", {200, 201, 202, 304}, id="range"),
    ],
)
def test_statuses(expect: str, statuses: set[int]) -> None:
    assert statuses_of(expect) == statuses


OK = HealthCheck()


@pytest.mark.parametrize(
    ("check", "status", "headers", "body", "result"),
    [
        pytest.param(OK, 200, [], b"", CheckResult(True, "status 200"), id="passes"),
        pytest.param(OK, 302, [], b"", CheckResult(True, "status 302"), id="redirect"),
        pytest.param(OK, 503, [], b"", CheckResult(False, "status 503, not 200-399"), id="fails"),
        pytest.param(
            OK, 404, [], b"", CheckResult(False, "status 404, not 200-399"), id="404"
        ),
        pytest.param(
            HealthCheck(drain_on_404=True), 404, [], b"",
            CheckResult(True, "status 404 on the check", True), id="404-drains",
        ),
        pytest.param(
            OK, 200, [(b"sticky-drain", b"1")], b"", CheckResult(True, "status 200", True),
            id="drains",
        ),
        pytest.param(
            OK, 503, [(b"sticky-drain", b"1")], b"",
            CheckResult(False, "status 503, not 200-399"), id="fails-first",
        ),
        pytest.param(
            HealthCheck(contains="fein ü"), 200, [], "so fein über".encode(),
            CheckResult(True, "status 200"), id="text",
        ),
        pytest.param(
            HealthCheck(contains="fine"), 200, [], b"broken",
            CheckResult(False, "'fine' is not in the body"), id="no-text",
        ),
    ],
)  # fmt: skip
def test_judge(
    check: HealthCheck, status: int, headers: Any, body: bytes, result: CheckResult
) -> None:
    assert check.judge(status, headers, body) == result


@pytest.mark.parametrize(
    ("value", "wish"), [(b"1", True), (b" 1 ", True), (b"0", False), (b"yes", None), (b"", None)]
)
def test_drain_wish(value: bytes, wish: bool | None) -> None:
    assert drain_wish([(b"a", b"1"), (b"sticky-drain", value)]) is wish
    assert drain_wish([(b"a", b"1")]) is None


@pytest.mark.parametrize(
    ("options", "is_down", "chance", "seconds"),
    [
        pytest.param({}, False, 0.5, 5, id="up"),
        pytest.param({}, False, 0, 4.5, id="earliest"),
        pytest.param({}, False, 1, 5.5, id="latest"),
        pytest.param({}, True, 0.5, 1, id="down"),
        pytest.param({"down_interval": 3, "jitter": 0}, True, 1, 3, id="down-as-told"),
    ],
)
def test_pause(options: Any, is_down: bool, chance: float, seconds: float) -> None:
    assert HealthCheck(**options).pause(is_down=is_down, chance=chance) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("elapsed", "share"),
    [(0, 0.1), (0.9, 0.1), (1.9, 0.1), (2, 0.2), (5.5, 0.5), (9.99, 0.9), (10, 1), (99, 1)],
)
def test_slow_start_shares(elapsed: float, share: float) -> None:
    assert share_after(elapsed, 10) == share
