"""The state machine of health and intent, edge by edge, on a virtual clock."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sticky_asgi import (
    Backend,
    BackendState,
    ConnectError,
    ConnectionLost,
    Ejection,
    Health,
    HealthCheck,
    Intent,
    NoBackendAvailable,
    Pool,
    RequestInfo,
    Resolution,
    Retry,
    RoundRobin,
    UnwantedStatus,
)
from sticky_asgi.affinity import AffinityStatus
from sticky_asgi.events import HealthChanged, PoolEvent
from sticky_asgi.health import CheckResult
from sticky_asgi.testing import VirtualClock

REQUEST = RequestInfo(client="192.0.2.1")
PASS, FAIL = CheckResult(True, "status 200"), CheckResult(False, "status 503")
DRAIN = CheckResult(True, "status 200", drains=True)
UNKNOWN, HEALTHY, UNHEALTHY = Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY
ACTIVE, DRAINING, DOWN = Intent.ACTIVE, Intent.DRAINING, Intent.DOWN
ERROR = ConnectError("refused")


class Recorded(Pool):
    """A pool that keeps what it says of health."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.changes: list[tuple[str, Health, Health, str]] = []
        super().__init__(*args, **options)
        self.observers.add(self)

    def observe(self, pool: Pool, event: PoolEvent) -> None:
        if isinstance(event, HealthChanged):
            self.changes.append((event.backend, event.before, event.after, event.reason))


def backend(id: str, **options: Any) -> Backend:
    return Backend(f"http://{id}.test", id=id, **options)


def pool(ids: str = "ab", *, checked: bool = False, **options: Any) -> tuple[Recorded, Any]:
    """A pool and its clock."""
    clock = VirtualClock()
    if checked:
        options.setdefault("health_check", HealthCheck())
    made = Recorded("shop", [backend(id) for id in ids], clock=clock, **options)
    if checked:
        made.begin_checks()
    return made, clock


def fail(made: Pool, id: str = "a", times: int = 1) -> None:
    """Requests that fail on a backend, as the gateway has them."""
    for _ in range(times):
        with made.lease(made[id]) as state:
            made.observe_failure(state, ERROR)


def answer(made: Pool, id: str = "a", status: int = 200) -> None:
    """A request that is answered, as the gateway has it."""
    with made.lease(made[id]) as state:
        state.observe_latency(0.01)
        if state.faults or status in made.noted_statuses:
            made.observe_answer(state, status)


def check(made: Pool, *results: CheckResult, id: str = "a") -> Health:
    for result in results:
        made.observe_check(made[id], result)
    return made[id].health


def failing_but_for(status: int) -> Callable[[Pool], None]:
    """Failures with an answer between them."""

    def happens(made: Pool) -> None:
        fail(made, times=4)
        answer(made, status=status)
        fail(made, times=4)

    return happens


# Checks


@pytest.mark.parametrize(
    ("before", "results", "after"),
    [
        pytest.param([], [PASS], HEALTHY, id="the first passes"),
        pytest.param([], [FAIL], UNHEALTHY, id="the first fails"),
        pytest.param([PASS], [FAIL, FAIL], HEALTHY, id="too few fail"),
        pytest.param([PASS], [FAIL, FAIL, FAIL], UNHEALTHY, id="fall"),
        pytest.param([PASS], [FAIL, FAIL, PASS, FAIL, FAIL], HEALTHY, id="not in a row"),
        pytest.param([FAIL], [PASS], UNHEALTHY, id="too few pass"),
        pytest.param([FAIL], [PASS, PASS], HEALTHY, id="rise"),
        pytest.param([FAIL], [PASS, FAIL, PASS], UNHEALTHY, id="rise not in a row"),
        pytest.param([PASS, FAIL, FAIL, FAIL, PASS], [PASS], HEALTHY, id="and back"),
    ],
)
def test_rise_and_fall(
    before: list[CheckResult], results: list[CheckResult], after: Health
) -> None:
    made, _ = pool(checked=True)
    check(made, *before)
    assert check(made, *results) is after
    assert made["b"].health is UNKNOWN


@pytest.mark.parametrize(
    ("result", "after"),
    [pytest.param(PASS, HEALTHY, id="pass"), pytest.param(FAIL, UNKNOWN, id="fail")],
)
def test_unknown_after_a_first_check(result: CheckResult, after: Health) -> None:
    """As after an operator's word: a pass is enough, one failure is not."""
    made, _ = pool(checked=True)
    made.set_health("a", UNHEALTHY)
    made.set_health("a", UNKNOWN)
    assert check(made, result) is after


def test_initially_unhealthy_until_the_first_check_has_passed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, _ = pool(health_check=HealthCheck(initial="unhealthy", rise=5))
    assert made["a"].health is UNKNOWN, "nobody checks yet: nobody would ever be healthy"
    made.begin_checks()
    assert {state.health for state in made.states} == {UNHEALTHY}
    assert not caplog.records, "nothing has happened that an operator must know"
    made.add(backend("c"))
    assert made["c"].health is UNHEALTHY
    assert check(made, PASS) is HEALTHY
    assert made["a"].weight == 1, "that is no recovery: no slow start"
    assert check(made, FAIL, PASS, id="b") is UNHEALTHY


def test_what_checks_said_is_void_when_nobody_checks_any_more() -> None:
    made, _ = pool("abc", checked=True)
    made.begin_checks()
    check(made, FAIL)
    check(made, PASS, id="b")
    made.set_health("c", UNHEALTHY)
    made.end_checks()
    assert made["a"].health is UNHEALTHY, "there is another one who checks"
    made.end_checks()
    assert [state.health for state in made.states] == [UNKNOWN, HEALTHY, UNHEALTHY]
    made.begin_checks()
    assert check(made, FAIL) is UNHEALTHY, "the first check again"


def test_a_check_of_a_backend_that_has_gone_means_nothing() -> None:
    made, _ = pool(checked=True)
    gone = made["a"]
    made.remove("a")
    made.observe_check(gone, FAIL)
    assert gone.health is UNKNOWN
    made.add(backend("a"))
    made.observe_check(gone, FAIL)
    assert made["a"].health is UNKNOWN


def test_every_change_has_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sticky_asgi")
    made, _ = pool(checked=True)
    check(made, PASS, FAIL, FAIL, FAIL, FAIL, PASS, PASS)
    made.set_health("b", HEALTHY)
    made.set_health("b", UNHEALTHY, reason="too hot")
    made.set_health("b", UNHEALTHY, reason="still too hot")
    assert made.changes == [
        ("a", UNKNOWN, HEALTHY, "check: status 200"),
        ("a", HEALTHY, UNHEALTHY, "check: status 503"),
        ("a", UNHEALTHY, HEALTHY, "check: status 200"),
        ("b", UNKNOWN, HEALTHY, "set by hand"),
        ("b", HEALTHY, UNHEALTHY, "too hot"),
    ]
    assert [(record.levelname, record.message) for record in caplog.records][:2] == [
        ("WARNING", "pool shop: backend a is unhealthy, was healthy (check: status 503)"),
        ("INFO", "pool shop: backend a is healthy, was unhealthy (check: status 200)"),
    ]


def test_the_log_is_not_filled_with_backends_that_are_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sticky_asgi")
    made, _ = pool("abcdef", checked=True)
    for id in "abcd":
        check(made, PASS, id=id)
    assert len(made.changes) == 4, "listeners are told"
    assert not caplog.records
    check(made, FAIL, id="e")
    fail(made, "f", times=5)
    made.set_health("f", UNKNOWN)
    check(made, PASS, id="f")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "pool shop: backend e is unhealthy, was unknown (check: status 503)"),
        (
            "WARNING",
            "pool shop: backend f is unhealthy, was unknown "
            "(ejected until checks pass: 5 failures in a row: refused)",
        ),
        ("INFO", "pool shop: backend f is unknown, was unhealthy (set by hand)"),
        ("INFO", "pool shop: backend f is healthy, was unknown (check: status 200)"),
    ]


@pytest.mark.parametrize("result", [PASS, FAIL], ids=["pass", "fail"])
def test_the_log_tells_who_is_waited_for(
    result: CheckResult, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sticky_asgi")
    made, _ = pool("a", checked=True, health_check=HealthCheck(initial="unhealthy"))
    check(made, result)
    said = [(record.levelname, record.message) for record in caplog.records]
    assert said[0] == ("INFO", "pool shop: backend a is unhealthy, was unknown (not checked yet)")
    well = ("INFO", "pool shop: backend a is healthy, was unhealthy (check: status 200)")
    assert said[1:] == ([well] if result is PASS else [])


# Ejection


@pytest.mark.parametrize(
    ("happens", "after"),
    [
        pytest.param(lambda made: fail(made, times=4), UNKNOWN, id="too few"),
        pytest.param(lambda made: fail(made, times=5), UNHEALTHY, id="enough"),
        pytest.param(
            failing_but_for(200),
            UNKNOWN,
            id="an answer between them",
        ),
        pytest.param(
            failing_but_for(503),
            UNKNOWN,
            id="any answer is one",
        ),
        pytest.param(
            lambda made: [made.observe_failure(made["a"], UnwantedStatus(503)) for _ in range(9)],
            UNKNOWN,
            id="statuses are answers",
        ),
    ],
)
def test_failures_in_a_row(happens: Callable[[Pool], Any], after: Health) -> None:
    made, _ = pool()
    happens(made)
    assert made["a"].health is after


def test_however_long_the_row_takes() -> None:
    made, clock = pool()
    for _ in range(5):
        clock.advance(3600)
        fail(made)
    assert made["a"].health is UNHEALTHY


def test_statuses_that_are_listed_count() -> None:
    made, _ = pool(ejection=Ejection(statuses=[503], failures=3), retry=Retry(on_status=[503, 429]))
    for status in (503, 503, 429, 503, 503, 500):
        answer(made, status=status)
    assert made["a"].health is UNKNOWN
    for _ in range(3):
        answer(made, status=503)
    assert made["a"].health is UNHEALTHY
    assert made.changes[-1][3] == "ejected for 30 seconds: 3 failures in a row: status 503"


@pytest.mark.parametrize(
    ("good", "bad", "after"),
    [
        pytest.param(10, 9, UNKNOWN, id="too few requests"),
        pytest.param(10, 10, UNHEALTHY, id="half"),
        pytest.param(21, 19, UNKNOWN, id="less than half"),
    ],
)
def test_a_share_of_failures(good: int, bad: int, after: Health) -> None:
    made, _ = pool(ejection=Ejection(failures=None))
    fail(made)
    for _ in range(good):
        answer(made)
    fail(made, times=bad - 1)
    assert made["a"].health is after


def test_failures_of_another_window_do_not_count() -> None:
    made, clock = pool(ejection=Ejection(failures=None, min_requests=10))
    fail(made, times=9)
    clock.advance(10.1)
    fail(made, times=9)
    assert made["a"].health is UNKNOWN
    fail(made)
    assert made["a"].health is UNHEALTHY


def test_backends_that_break_off_are_found_by_the_share() -> None:
    """Each of them has answered before it fails."""
    made, _ = pool()
    for _ in range(20):
        with made.lease(made["a"]) as state:
            state.observe_latency(0.01)
            if state.faults:
                made.observe_answer(state, 200)
            made.observe_failure(state, ERROR)
    assert made.changes[-1][3] == "ejected for 30 seconds: 20 of 20 requests failed: refused"


def test_nothing_ejects_when_it_is_off() -> None:
    made, _ = pool(ejection=None)
    fail(made, times=100)
    assert made["a"].health is UNKNOWN
    made, _ = pool(ejection=Ejection(failures=None, failure_share=None))
    fail(made, times=100)
    assert made["a"].health is UNKNOWN


def test_the_return_and_the_probation() -> None:
    made, clock = pool()
    fail(made, times=5)
    clock.advance(29.9)
    assert made.states[0].health is UNHEALTHY
    clock.advance(0.1)
    assert made.states[0].health is UNKNOWN
    assert made.changes[-1] == ("a", UNHEALTHY, UNKNOWN, "its ejection is over")
    fail(made)
    assert made["a"].health is UNHEALTHY, "one failure is enough now"
    assert "for 60 seconds: 5 failures" in made.changes[-1][3]
    clock.advance(60)
    assert made.states[0].health is UNKNOWN
    answer(made)
    fail(made, times=4)
    assert made["a"].health is UNKNOWN, "it has answered"


def test_each_ejection_lasts_twice_as_long_up_to_a_limit() -> None:
    made, clock = pool(ejection=Ejection(failures=1, duration=10, max_duration=35))
    lasted = []
    for _ in range(4):
        fail(made)
        began = clock()
        while made.states[0].health is UNHEALTHY:
            clock.advance(1)
        lasted.append(clock() - began)
    assert lasted == [10, 20, 35, 35]
    clock.advance(34)
    fail(made)
    clock.advance(34)
    assert made.states[0].health is UNHEALTHY
    clock.advance(1)
    assert made.states[0].health is UNKNOWN
    clock.advance(35)
    fail(made)
    clock.advance(10)
    assert made.states[0].health is UNKNOWN, "it was back for so long that it counts from anew"


@pytest.mark.parametrize(
    ("ids", "share", "ejected"),
    [
        pytest.param("a", 0.5, 0, id="one"),
        pytest.param("ab", 0.5, 1, id="two"),
        pytest.param("abc", 0.5, 1, id="three"),
        pytest.param("abcd", 0.5, 2, id="four"),
        pytest.param("ab", 0, 0, id="none"),
        pytest.param("ab", 1, 2, id="all"),
    ],
)
def test_max_share(ids: str, share: float, ejected: int) -> None:
    made, _ = pool(ids, ejection=Ejection(max_share=share))
    for id in ids:
        fail(made, id, times=9)
    assert sum(state.health is UNHEALTHY for state in made.states) == ejected


def test_max_share_counts_everybody_who_is_out() -> None:
    made, _ = pool("abcd", checked=True)
    check(made, FAIL, id="b")
    check(made, FAIL, id="c")
    fail(made, times=9)
    assert made["a"].health is UNKNOWN
    check(made, PASS, PASS, id="b")
    fail(made)
    assert made["a"].health is UNHEALTHY


def test_active_checks_decide_the_return() -> None:
    made, clock = pool(checked=True)
    check(made, PASS)
    fail(made, times=5)
    assert made["a"].health is UNHEALTHY
    assert "ejected until checks pass" in made.changes[-1][3]
    clock.advance(10_000)
    assert made.states[0].health is UNHEALTHY
    assert check(made, PASS) is UNHEALTHY
    assert check(made, PASS) is HEALTHY
    assert made["a"].weight == 0.1
    fail(made)
    assert made["a"].health is UNHEALTHY, "on probation"


def test_active_checks_decide_also_while_others_get_more_weight() -> None:
    made, clock = pool("abcd", checked=True, ejection=Ejection(duration=1))
    fail(made, "a", times=5)
    check(made, FAIL, PASS, PASS, id="b")
    clock.advance(5)
    assert [state.health for state in made.states[:2]] == [UNHEALTHY, HEALTHY]
    assert made["b"].weight == 0.5


def test_without_checks_an_ejection_ends_with_its_time() -> None:
    """As in a gateway that has no lifespan, and makes no checks."""
    made, clock = pool(health_check=HealthCheck())
    fail(made, times=5)
    clock.advance(30)
    assert made.states[0].health is UNKNOWN


def test_a_pick_sees_that_an_ejection_is_over() -> None:
    made, clock = pool(slow_start=None)
    fail(made, times=5)
    kept = Resolution(AffinityStatus.KEPT, "a")
    assert made.pick(REQUEST, resolution=kept).id == "b"
    assert kept.status is AffinityStatus.MOVED
    clock.advance(30)
    kept = Resolution(AffinityStatus.KEPT, "a")
    assert made.pick(REQUEST, resolution=kept).id == "a"
    assert {made.pick(REQUEST).id for _ in range(4)} == {"a", "b"}


def test_an_operator_ends_an_ejection() -> None:
    made, clock = pool(slow_start=None)
    fail(made, times=5)
    made.set_health("a", HEALTHY)
    fail(made, times=4)
    assert made["a"].health is HEALTHY, "and its probation"
    made.set_health("a", UNHEALTHY)
    clock.advance(1000)
    assert made.states[0].health is UNHEALTHY, "what was set by hand stays"


def test_switching_ejection_off_brings_back_whom_it_took() -> None:
    made, _ = pool("abcd")
    fail(made, times=5)
    made.set_health("b", UNHEALTHY)
    made.adopt(Pool("shop", [backend(id) for id in "abcd"], ejection=None))
    assert [made[id].health for id in "ab"] == [UNKNOWN, UNHEALTHY]


@pytest.mark.parametrize(
    ("times", "passed", "rules", "left"),
    [
        pytest.param(1, 0, Ejection(duration=5), 5, id="shorter"),
        pytest.param(1, 27, Ejection(duration=5), 3, id="nearly over"),
        pytest.param(2, 0, Ejection(duration=5), 10, id="the second time"),
        pytest.param(2, 0, Ejection(duration=5, max_duration=7), 7, id="a limit"),
        pytest.param(1, 0, Ejection(duration=60), 30, id="longer"),
        pytest.param(1, 0, Ejection(), 30, id="the same"),
    ],
)
def test_a_shorter_ejection_is_in_force_at_once(
    times: int, passed: float, rules: Ejection, left: float
) -> None:
    made, clock = pool()
    for number in range(times):
        clock.advance(30 * number)
        made.advance()
        fail(made, times=5)
    clock.advance(passed)
    made.adopt(Pool("shop", [backend(id) for id in "ab"], ejection=rules))
    clock.advance(left - 0.5)
    made.advance()
    assert made["a"].health is UNHEALTHY
    clock.advance(0.5)
    made.advance()
    assert made["a"].health is UNKNOWN


def test_a_reload_keeps_health() -> None:
    made, clock = pool("abcd", checked=True)
    check(made, PASS, FAIL, FAIL)
    check(made, FAIL, id="b")
    fail(made, "c", times=5)
    made.adopt(Pool("shop", [backend(id, weight=2) for id in "abcd"], health_check=HealthCheck()))
    assert [state.health for state in made.states] == [HEALTHY, UNHEALTHY, UNHEALTHY, UNKNOWN]
    assert check(made, FAIL) is UNHEALTHY, "the third in a row"
    clock.advance(1000)
    assert made.states[2].health is UNHEALTHY


def test_a_backend_that_leaves_is_forgotten() -> None:
    made, clock = pool()
    fail(made, times=5)
    held = made.lease(made["a"])
    made.remove("a")
    assert held.state.faults == 0
    made.add(backend("a"))
    assert made["a"] is held.state
    assert (made["a"].health, made["a"].weight) == (UNKNOWN, 1)
    held.release()
    clock.advance(30)
    made.states
    assert made.changes[-1][2] is UNHEALTHY, "no ejection of its former life ends"


# Slow start


def shares(made: Pool, count: int = 110) -> Counter[str]:
    return Counter(made.pick(REQUEST).id for _ in range(count))


def test_weight_grows_after_recovery() -> None:
    made, clock = pool(balancer=RoundRobin())
    fail(made, times=5)
    clock.advance(30)
    assert shares(made) == {"a": 10, "b": 100}
    weights = []
    for _ in range(11):
        weights.append(made.states[0].weight)
        clock.advance(1)
    assert weights == [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert shares(made) == {"a": 55, "b": 55}
    assert made._keeper.due is None


def test_the_candidates_are_the_same_but_for_ten_steps() -> None:
    """What balancers keep for a tuple of candidates is not thrown away with every request."""
    made, clock = pool("abc")
    seen: list[Any] = []

    class Watching:
        def pick(self, candidates: Any, request: RequestInfo) -> BackendState:
            if not seen or candidates is not seen[-1]:
                seen.append(candidates)
            chosen: BackendState = candidates[0]
            return chosen

    made.balancer = Watching()
    made.set_health("a", UNHEALTHY)
    made.set_health("a", HEALTHY)
    clock.advance(0.5)
    made.set_health("b", UNHEALTHY)
    made.set_health("b", HEALTHY)
    for _ in range(2000):
        made.pick(REQUEST)
        clock.advance(0.01)
    assert 10 <= len(seen) <= 13
    assert [state.weight for state in made.states] == [1, 1, 1]


def test_no_slow_start_at_the_gateways_start_nor_when_it_is_off() -> None:
    made, _ = pool(checked=True)
    check(made, PASS)
    assert made["a"].weight == 1
    made, _ = pool(checked=True, slow_start=None)
    check(made, FAIL, PASS, PASS)
    assert made["a"].weight == 1


def test_slow_start_begins_again_with_the_next_recovery() -> None:
    made, clock = pool(checked=True)
    check(made, FAIL, PASS, PASS)
    clock.advance(5)
    assert made.states[0].weight == 0.5
    check(made, FAIL, FAIL, FAIL)
    assert made["a"].weight == 1
    check(made, PASS, PASS)
    assert made["a"].weight == 0.1


def test_switching_slow_start_off_ends_it() -> None:
    made, _ = pool(checked=True)
    check(made, FAIL, PASS, PASS)
    made.adopt(Pool("shop", [backend("a", weight=3)], slow_start=None, health_check=HealthCheck()))
    assert made["a"].weight == 3


def test_a_new_weight_is_scaled_as_the_old_one() -> None:
    made, clock = pool(checked=True)
    check(made, FAIL, PASS, PASS)
    made.replace([backend("a", weight=10), backend("b")])
    assert made["a"].weight == 1
    clock.advance(10)
    assert made.states[0].weight == 10


def test_events_in_between_do_not_put_off_the_next_step() -> None:
    made, clock = pool("abc", checked=True)
    check(made, FAIL, PASS, PASS)
    for number in range(120):
        clock.advance(0.1)
        made.set_health("b", HEALTHY if number % 2 else UNKNOWN)
        made.pick(REQUEST)
    assert made["a"].weight == 1


# Backups


def tiers(**options: Any) -> Pool:
    return Pool(
        "shop",
        [backend("a"), backend("b"), backend("c", priority=1), backend("d", priority=7)],
        **options,
    )


@pytest.mark.parametrize(
    ("spoil", "served"),
    [
        pytest.param(lambda made: None, "ab", id="primary"),
        pytest.param(lambda made: made.set_health("a", UNHEALTHY), "b", id="one is left"),
        pytest.param(
            lambda made: [made.set_health(id, UNHEALTHY) for id in "ab"], "c", id="backup"
        ),
        pytest.param(
            lambda made: [made.set_intent(id, DOWN) for id in "abc"], "d", id="the last group"
        ),
        pytest.param(
            lambda made: [made.drain(id) for id in "ab"], "c", id="a backup before draining ones"
        ),
        pytest.param(
            lambda made: [made.drain(id) for id in "abcd"], "ab", id="all draining: by priority"
        ),
        pytest.param(
            lambda made: (
                [made.set_health(id, UNHEALTHY) for id in "ab"],
                made.set_health("b", HEALTHY),
            ),
            "b",
            id="back",
        ),
    ],
)
def test_priorities(spoil: Callable[[Pool], Any], served: str) -> None:
    made = tiers()
    spoil(made)
    assert {made.pick(REQUEST).id for _ in range(6)} == set(served)


def test_who_was_tried_is_no_reason_to_stop() -> None:
    made = tiers()
    assert made.pick(REQUEST, exclude={"a", "b"}).id == "c"
    assert made.pick(REQUEST, exclude={"a", "b", "c"}).id == "d"
    assert made.has_another(Resolution(AffinityStatus.NEW), {"a", "b", "c"})
    with pytest.raises(NoBackendAvailable):
        made.pick(REQUEST, exclude=set("abcd"))


def test_sessions_of_a_backup_stay_there() -> None:
    made = tiers()
    assert made.pick(REQUEST, resolution=Resolution(AffinityStatus.KEPT, "c")).id == "c"


# Panic


@pytest.mark.parametrize("panic", ["all", "none"])
def test_panic(panic: Any, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = pool("abc", panic=panic)
    made.set_intent("c", DOWN)
    made.set_health("a", UNHEALTHY)
    assert {made.pick(REQUEST).id for _ in range(4)} == {"b"}
    made.set_health("b", UNHEALTHY)
    kept, down = (Resolution(AffinityStatus.KEPT, id) for id in "bc")
    if panic == "none":
        with pytest.raises(NoBackendAvailable):
            made.pick(REQUEST)
        with pytest.raises(NoBackendAvailable):
            made.pick(REQUEST, resolution=kept)
        assert kept.status is AffinityStatus.MOVED
        return
    assert {made.pick(REQUEST).id for _ in range(4)} == {"a", "b"}
    assert made.pick(REQUEST, resolution=kept).id == "b"
    assert made.pick(REQUEST, resolution=down).id in "ab"
    made.set_intent("a", DRAINING)
    assert {made.pick(REQUEST).id for _ in range(4)} == {"b"}
    said = [record for record in caplog.records if "nobody is healthy" in record.message]
    assert len(said) == 1
    made.set_health("a", HEALTHY)
    assert {made.pick(REQUEST).id for _ in range(4)} == {"a"}
    assert made.pick(REQUEST, resolution=Resolution(AffinityStatus.KEPT, "b")).id == "a"


def test_panic_has_nobody_in_an_empty_pool() -> None:
    made, _ = pool("", panic="all")
    with pytest.raises(NoBackendAvailable):
        made.pick(REQUEST)


# Backends that drain themselves


def set_to(intent: Intent) -> Callable[[Pool], Any]:
    return lambda made: made.set_intent("a", intent)


def says(result: CheckResult) -> Callable[[Pool], Any]:
    return lambda made: check(made, result)


@pytest.mark.parametrize(
    ("happens", "after"),
    [
        pytest.param([says(DRAIN)], DRAINING, id="it drains itself"),
        pytest.param([says(DRAIN), says(DRAIN), says(PASS)], ACTIVE, id="and takes it back"),
        pytest.param([says(DRAIN), says(FAIL)], DRAINING, id="a failed check says nothing"),
        pytest.param([set_to(DRAINING), says(PASS)], DRAINING, id="an operator's stays"),
        pytest.param([set_to(DRAINING), says(DRAIN), says(PASS)], DRAINING, id="also if it agrees"),
        pytest.param([says(DRAIN), set_to(DRAINING), says(PASS)], DRAINING, id="also afterwards"),
        pytest.param([set_to(DOWN), says(DRAIN)], DOWN, id="down"),
        pytest.param([says(DRAIN), set_to(DOWN), says(PASS)], DOWN, id="down afterwards"),
        pytest.param([says(DRAIN), set_to(ACTIVE), says(DRAIN)], ACTIVE, id="undrained by hand"),
        pytest.param(
            [says(DRAIN), set_to(ACTIVE), says(PASS), says(DRAIN)], DRAINING, id="a new wish"
        ),
    ],
)
def test_a_backend_drains_itself(happens: list[Callable[[Pool], Any]], after: Intent) -> None:
    made, _ = pool(checked=True)
    for step in happens:
        step(made)
    assert made["a"].intent is after


def test_any_response_may_say_so() -> None:
    made, _ = pool(drain_header=True)
    state = made["a"]
    made.observe_headers(state, [(b"sticky-drain", b"1")])
    made.observe_headers(state, [(b"content-type", b"text/plain")])
    assert state.intent is DRAINING
    made.observe_headers(state, [(b"sticky-drain", b"0")])
    assert state.intent is ACTIVE
    made.observe_headers(state, [(b"sticky-drain", b"1")])
    held = made.lease(state)
    made.remove("a")
    made.observe_headers(state, [(b"sticky-drain", b"1")])
    assert (state.intent, state.wishes_drain) == (ACTIVE, False)
    held.release()


# Who else is there


def test_who_is_not_in_service_is_no_part_of_the_pool() -> None:
    made, _ = pool("abcd")
    for id in "cd":
        made.set_intent(id, DOWN)
    fail(made, "a", times=5)
    fail(made, "b", times=5)
    assert (made["a"].health, made["b"].health) == (UNHEALTHY, UNKNOWN)


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda made: made.remove("b"), id="removed"),
        pytest.param(lambda made: made.set_intent("b", DOWN), id="down"),
        pytest.param(lambda made: made.adopt(pool("ab", ejection=Ejection(max_share=0))[0]),
                     id="another share"),
    ],
)  # fmt: skip
def test_who_is_ejected_comes_back_when_too_many_are_out(leave: Callable[[Pool], None]) -> None:
    made, _ = pool("ab")
    fail(made, "a", times=5)
    assert made["a"].health is UNHEALTHY
    leave(made)
    assert made["a"].health is UNKNOWN
    assert made.changes[-1][3] == "too many are out"


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58])
def test_a_share_is_what_people_mean_by_it(share: float) -> None:
    rules = Ejection(max_share=share)
    assert rules.has_room(round(share * 100) - 1, 100)
    assert not rules.has_room(round(share * 100), 100)


def test_a_request_from_before_the_return_says_nothing_of_it() -> None:
    made, clock = pool()
    fail(made, times=5)
    clock.advance(31)
    assert made.states[0].health is UNKNOWN
    with made.lease(made["a"]) as state:
        made.observe_failure(state, ERROR, took=60)
    assert made["a"].health is UNKNOWN
    fail(made)
    assert made["a"].health is UNHEALTHY, "on probation"


@pytest.mark.parametrize("status", [200, 503], ids=["good", "bad"])
def test_an_answer_to_a_request_from_before_the_return_says_nothing_of_it(status: int) -> None:
    made, clock = pool(ejection=Ejection(statuses=[503]))
    fail(made, times=5)
    clock.advance(31)
    assert made.states[0].health is UNKNOWN
    with made.lease(made["a"]) as state:
        made.observe_answer(state, status, took=60)
    assert (state.health, state.faults) == (UNKNOWN, 4), "on probation"
    clock.advance(1)
    with made.lease(state):
        made.observe_answer(state, 200, took=0.5)
    assert state.faults == 0


def test_a_bad_status_with_a_broken_body_is_one_failure() -> None:
    made, _ = pool(ejection=Ejection(failures=2, statuses=[503]))
    state = made["a"]
    is_counted = made.observe_answer(state, 503)
    made.observe_failure(state, ConnectionLost("broken off", stage="body"), is_counted=is_counted)
    assert (state.faults, state.failures) == (1, 1)
    assert not made.observe_answer(state, 200)


def test_a_first_check_that_passes_changes_nobodys_candidates() -> None:
    made, _ = pool(checked=True)
    made.pick(REQUEST)
    before = made._groups
    check(made, PASS)
    assert made["a"].health is HEALTHY
    assert made._groups is before, "ten thousand such checks would stop everything"
    check(made, FAIL, FAIL, FAIL)
    assert made._groups is not before


def test_backends_in_use_need_no_first_check() -> None:
    made, _ = pool()
    answer(made, "a")
    other = pool(health_check=HealthCheck(initial="unhealthy"))[0]
    made.adopt(other)
    made.begin_checks()
    assert [state.health for state in made.states] == [UNKNOWN, UNHEALTHY]


def test_a_self_drain_ends_with_what_said_it() -> None:
    made, _ = pool(checked=True)
    check(made, DRAIN)
    assert made["a"].intent is DRAINING
    made.end_checks()
    assert made["a"].takes_sessions


def test_a_self_drain_ends_when_headers_are_not_read_any_more() -> None:
    made, _ = pool(drain_header=True)
    made.observe_headers(made["a"], [(b"sticky-drain", b"1")])
    assert made["a"].intent is DRAINING
    made.adopt(pool()[0])
    assert made["a"].takes_sessions


def test_a_check_that_cannot_tell_undoes_no_drain() -> None:
    made, _ = pool(checked=True, drain_header=True)
    made.observe_headers(made["a"], [(b"sticky-drain", b"1")])
    check(made, CheckResult(True, "connected", drains=None))
    assert made["a"].intent is DRAINING


def test_who_was_ejected_rises_as_others_do_though_checks_were_off() -> None:
    made, _ = pool(checked=True, slow_start=10)
    check(made, PASS)
    fail(made, times=5)
    made.end_checks()
    made.begin_checks()
    assert check(made, PASS) is UNHEALTHY
    assert check(made, PASS) is HEALTHY
    assert made["a"].weight < 1, "slow start"


def test_a_shorter_slow_start_is_in_force_at_once() -> None:
    made, clock = pool(slow_start=3600)
    fail(made, times=5)
    clock.advance(31)
    assert made.states[0].weight < 1
    made.adopt(pool(slow_start=10)[0])
    clock.advance(11)
    assert made.states[0].weight == 1


def test_a_backup_that_pick_would_not_give_is_none() -> None:
    made = Pool(
        "shop",
        [
            backend("a", max_requests=1),
            backend("b", max_requests=1),
            backend("c", priority=1),
        ],
    )
    made.lease(made["b"])
    fresh = Resolution(AffinityStatus.NEW)
    assert not made.has_another(fresh, {"a"}), "b is full, and c is for when it is out"
