"""The parts of `make chaos` that need no gateway, and one short case that has one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

import pytest

from tests.chaos.__main__ import main, run_case
from tests.chaos.answers import Answer, Connection, NoAnswer
from tests.chaos.arena import Arena, Options
from tests.chaos.bounds import Check, Verdict, at_least, at_most, grown, none_of, verdict_table
from tests.chaos.cases import CASES, Case
from tests.chaos.cases.hostile import hostile
from tests.chaos.faults import CALM, DOORS, TRICKS, Trick, doors, schedule, tricks
from tests.chaos.gateway import ChaosError, faults_in
from tests.chaos.load import Load
from tests.chaos.page import BEGIN, END, replace_part
from tests.chaos.raw import RawBackend, Sceptic, body_of
from tests.chaos.replicas import Replicas
from tests.chaos.tally import (
    Event,
    Moves,
    begun,
    described,
    longest,
    most_of_one,
    moves,
    problems,
)
from tests.chaos.visitors import Outcome, Stay, Visitor

from .servers import ROOT, free_port

# Faults


def test_the_same_seed_makes_the_same_faults() -> None:
    assert schedule(7, 3, "abc") == schedule(7, 3, "abc")
    assert schedule(7, 3, "abc") != schedule(8, 3, "abc")
    first, again = tricks(7, "a"), tricks(7, "a")
    assert [*islice(first, 100)] == [*islice(again, 100)] != [*islice(tricks(7, "b"), 100)]
    assert [*islice(doors(7, "a"), 100)] == [*islice(doors(7, "a"), 100)]


def test_faults_come_one_after_another_and_leave_the_end_of_each_minute_alone() -> None:
    faults = schedule(1, 10, "abc")
    assert {fault.replica for fault in faults} == {*"abc"}
    assert {fault.kind for fault in faults} == {"kill", "pause", "stop"}
    assert {int(fault.at // 60) for fault in faults} == {*range(10)}
    assert all(fault.at % 60 + fault.lasts <= 60 - CALM for fault in faults)
    assert all(one.at + one.lasts < other.at for one, other in pairwise(faults))


def test_each_trick_comes_in_every_round() -> None:
    played = [*islice(tricks(1, "a"), 2 * len(TRICKS))]
    assert {*played} == {*TRICKS}
    assert {*islice(doors(1, "a"), 200)} == {*DOORS}


# Who moved, and why

A, B = "a", "b"


@pytest.mark.parametrize(
    ("stays", "found"),
    [
        pytest.param([Stay(A, "a1", 0)], Moves(0, 0, 0), id="nothing-happened"),
        pytest.param([Stay(A, "a1", 0, 12), Stay(B, "b1", 12)], Moves(1, 1, 0), id="moved"),
        pytest.param([Stay(A, "a1", 0)], Moves(0, 0, 0), id="never-noticed-early"),
        pytest.param([Stay(A, "a1", 0, 8), Stay(B, "b1", 8)], Moves(0, 1, 1), id="too-early"),
        pytest.param([Stay(B, "b1", 0, 12), Stay(A, "a1", 12)], Moves(0, 1, 1), id="another's"),
        pytest.param([Stay(A, "a1", 0, 12), Stay(A, "a2", 12)], Moves(1, 1, 0), id="reborn"),
        pytest.param(
            [Stay(A, "a1", 0, 12), Stay(B, "b1", 12, 13), Stay(A, "a2", 13)],
            Moves(1, 2, 1),
            id="twice-for-one-death",
        ),
    ],
)
def test_moves(stays: Sequence[Stay], found: Moves) -> None:
    # In most of them a dies at 10; who has come before it and has not left stays on it.
    events = [Event(A, 10)] if len(stays) > 1 else []
    assert moves([stays], events) == found


def test_a_visitor_who_stays_on_a_dead_replica_is_missed() -> None:
    assert moves([[Stay(A, "a1", 0)]], [Event(A, 10)]) == Moves(due=1, made=0, undue=0)


# Outcomes

OUTCOMES = [
    Outcome(1, "x", "GET", 0.0, 0.1, 200, None),
    Outcome(2, "x", "GET", 1.0, 3.0, 502, "status 502"),
    Outcome(3, "y", "GET", 2.0, 2.1, None, "cut off"),
    Outcome(4, "x", "GET", 3.0, 3.1, 502, "status 502"),
]


def test_outcomes_are_counted() -> None:
    assert problems(OUTCOMES) == {"status 502": 2, "cut off": 1}
    assert described(problems(OUTCOMES)) == "3 (2 status 502, 1 cut off)"
    assert described(problems(OUTCOMES[:1])) == "0"
    assert [each.number for each in begun(OUTCOMES, 1.0, 3.0)] == [2, 3]
    assert most_of_one(OUTCOMES) == 3
    assert longest(OUTCOMES) == 2.0
    assert most_of_one([]) == longest([]) == 0


# Bounds


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        pytest.param(none_of("x", 0), True, id="none"),
        pytest.param(none_of("x", 1), False, id="one"),
        pytest.param(at_most("x", 1.2, 1.2), True, id="at-most"),
        pytest.param(at_most("x", 1.2, float("inf")), False, id="for-ever"),
        pytest.param(at_least("x", 3, 3), True, id="at-least"),
        pytest.param(at_least("x", 3, 2), False, id="too-few"),
        pytest.param(grown("x", 100, 102, 0.02), True, id="grown-a-little"),
        pytest.param(grown("x", 100, 102.1, 0.02), False, id="grown"),
        pytest.param(grown("x", 100, 50, 0.02), True, id="shrunk"),
    ],
)
def test_a_bound_holds_or_not(check: Check, holds: bool) -> None:
    assert check.holds == holds
    assert Verdict("case", [none_of("y", 0), check]).holds == holds


def test_the_table_says_what_holds() -> None:
    verdict = Verdict(
        "down", [none_of("errors", 2, "2 (2 cut off)"), at_most("wait", 2, 0.5, " s")]
    )
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in verdict_table([verdict]).splitlines()
    ]
    assert cells[0] == ["case", "what", "bound", "found", "holds"]
    assert cells[2:] == [
        ["down", "errors", "0", "2 (2 cut off)", "**no**"],
        ["", "wait", "≤ 2.00 s", "0.50 s", "yes"],
    ]


@pytest.mark.parametrize(
    ("line", "count"),
    [
        pytest.param("ConnectionResetError: [Errno 104]", 1, id="exception"),
        pytest.param("foo.bar.SomeException: no", 1, id="foreign-exception"),
        pytest.param("Task exception was never retrieved", 1, id="lost"),
        pytest.param("sticky_asgi.exceptions.ConnectionLost: cut off", 0, id="the-gateway's-own"),
        pytest.param("12:00 WARNING sticky_asgi: GET '/': gaierror: no such host", 0, id="message"),
    ],
)
def test_bugs_are_found_in_a_log(line: str, count: int) -> None:
    assert len(faults_in(f"12:00 INFO sticky_asgi.serving: ready\n{line}\n")) == count


# Visitors


def told(count: int, *, boot: str = "1", session: str = "x", number: int = 5) -> Answer:
    content = {"replica": A, "boot": boot, "session": session, "number": number, "count": count}
    return Answer(200, {}, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("method", "answer", "problem"),
    [
        pytest.param("GET", told(3), None, id="right"),
        pytest.param("POST", told(4), None, id="counted"),
        pytest.param("POST", told(3), "wrong answer: the session's counter", id="not-counted"),
        pytest.param("POST", told(5), "wrong answer: the session's counter", id="counted-twice"),
        pytest.param("GET", told(0), "wrong answer: the session's counter", id="lost"),
        pytest.param("GET", told(0, boot="2"), None, id="another-replica"),
        pytest.param(
            "GET", told(1, boot="2"), "wrong answer: the session's counter", id="invented"
        ),
        pytest.param("GET", told(3, session="y"), "wrong answer: somebody else's", id="mixed-up"),
        pytest.param("GET", told(3, number=4), "wrong answer: somebody else's", id="an-older-one"),
        pytest.param("GET", Answer(503, {}, b""), "status 503", id="an-error"),
    ],
)
def test_a_visitor_knows_the_right_answer(method: str, answer: Answer, problem: str | None) -> None:
    visitor = Visitor("x", 0)
    for count in (1, 2, 3):
        assert visitor.judge(told(count), "POST", 5, 0.0) is None
    assert visitor.judge(answer, method, 5, 1.0) == problem


def test_a_post_without_an_answer_may_have_been_counted() -> None:
    async def run() -> None:
        visitor = Visitor("x", free_port())
        assert (await visitor.visit("POST", 1)).problem == "refused"
        assert visitor.judge(told(1), "GET", 5, 0.0) is None
        assert visitor.judge(told(3), "GET", 5, 0.0) is not None

    asyncio.run(run())


def test_a_replica_keeps_sessions_until_it_dies() -> None:
    async def run() -> list[Stay]:
        replicas = Replicas(1)
        try:
            await replicas.start(A)
            (backend,) = replicas.backends()
            visitor = Visitor("x", int(str(backend["url"]).rpartition(":")[2]))
            for number, method in enumerate(("POST", "GET", "POST")):
                assert (await visitor.visit(method, number)).problem is None
            assert await replicas.arrived() == {0, 1, 2}
            await replicas.kill(A)
            assert (await visitor.visit("GET", 3)).problem in ("no answer", "refused")
            await replicas.start(A)
            assert (await visitor.visit("GET", 4)).problem is None
            visitor.leave()
            assert moves([visitor.stays], replicas.deaths) == Moves(1, 1, 0)
            return visitor.stays
        finally:
            replicas.end()

    assert [stay.replica for stay in asyncio.run(run())] == [A, A]


def test_a_visitor_who_fails_fails_the_run() -> None:
    class Broken(Visitor):
        async def visit(self, method: str, number: int, wait: float | None = None) -> Outcome:
            raise LookupError("a visitor's bug")

    async def run() -> None:
        async with Load(lambda name: Broken(name, 0), rate=1000, visitors=2) as load:
            while not load.unmade:
                await asyncio.sleep(0)

    with pytest.raises(LookupError, match="a visitor's bug"):
        asyncio.run(run())


def test_a_crowd_asks_at_one_time() -> None:
    asked: list[tuple[int, float | None]] = []

    class Patient(Visitor):
        async def visit(self, method: str, number: int, wait: float | None = None) -> Outcome:
            asked.append((number, wait))
            await answered.wait()
            return Outcome(number, self.name, method, 0.0, 0.0, 200, None)

    async def run() -> Load:
        async with Load(lambda name: Patient(name, 0), visitors=3) as load:
            load.is_resting = True
            for number in (3, 6):
                crowd = asyncio.create_task(load.crowd(1.5))
                while len(asked) < number:
                    await asyncio.sleep(0)
                assert not crowd.done()
                answered.set()
                await crowd
                answered.clear()
            return load

    answered = asyncio.Event()
    load = asyncio.run(run())
    assert asked == [(-number, 1.5) for number in range(1, 7)]
    assert [outcome.number for outcome in load.outcomes] == [number for number, _ in asked]


# Tricks, without a gateway in between


@pytest.mark.parametrize(
    ("trick", "problem"),
    [
        pytest.param(trick, problem, id=trick)
        for trick, problem in {
            "honest": None,
            "honest chunked": None,
            "one byte at a time": None,
            "two answers": None,
            "503": "status 503",
            "reset": "no answer",
            "reset in head": "cut off",
            "end in head": "cut off",
            "no http": "malformed",
            "two lengths": "malformed",
            "huge head": "malformed",
            "reset in body": "cut off",
            "end in body": "cut off",
            "end in chunks": "cut off",
            "bad chunk": "malformed",
        }.items()
    ],
)
def test_a_client_can_tell_what_was_played_to_it(trick: Trick, problem: str | None) -> None:
    async def run() -> Outcome:
        async with RawBackend(iter([trick]), iter(["open", "open"])) as backend:
            await asyncio.sleep(0)
            visitor = Sceptic("x", backend.port)
            outcome = await visitor.visit("GET", 5)
            visitor.leave()
            return outcome

    assert asyncio.run(run()).problem == problem


def test_the_second_of_two_answers_is_wrong() -> None:
    async def run() -> Sequence[str | None]:
        async with RawBackend(iter(["two answers"]), iter(["open", "open"])) as backend:
            await asyncio.sleep(0)
            visitor = Sceptic("x", backend.port)
            found = [(await visitor.visit("GET", number)).problem for number in (5, 6)]
            visitor.leave()
            return found

    assert asyncio.run(run()) == [None, "wrong answer: another body"]


def test_nobody_there() -> None:
    async def run() -> None:
        await Connection(free_port()).ask("GET", "/", {})

    with pytest.raises(NoAnswer) as caught:
        asyncio.run(run())
    assert caught.value.problem == "refused"
    assert body_of(1) != body_of(2)


# The command


def test_only_the_part_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_part(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize("page", ["no marks", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_the_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ChaosError, match="lacks the lines"):
        replace_part(page, "new")


def test_the_documentation_has_the_marks() -> None:
    text = (ROOT / "docs" / "resilience.md").read_text(encoding="utf-8")
    assert replace_part(text, "new") != text


@pytest.mark.parametrize(
    "text", [pytest.param("", id="no-marks"), pytest.param(None, id="no-page")]
)
def test_a_page_that_cannot_be_written_is_refused_at_once(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert main(["--write", str(page)]) == 1
    assert capsys.readouterr().err.startswith("chaos: ")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--write", "page", "--case", "killed"], id="part-of-the-cases"),
        pytest.param(["--write", "page", "--set", "retry=null"], id="other-settings"),
        pytest.param(["--case", "eaten"], id="unknown-case"),
        pytest.param(["--minutes", "2"], id="nothing-to-compare"),
        pytest.param(["--set", "retry"], id="no-value"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_case_that_cannot_be_run_does_not_hold(tmp_path: Path) -> None:
    async def refused(arena: Arena) -> Sequence[Check]:
        await arena.gateway({"pools": {"chaos": {"backends": []}}})
        raise AssertionError("it has come up")

    verdict = run_case(Case("refused", refused), 1, Options(), tmp_path)

    assert not verdict.holds
    assert "pools.chaos.backends" in verdict.checks[0].found


def test_steady_is_run_only_if_asked_for() -> None:
    assert [case.name for case in CASES.values() if not case.is_usual] == ["steady"]


def test_a_gateway_with_hostile_backends(tmp_path: Path) -> None:
    """A short one of the cases; checks and ejection would keep the worst away from it."""
    options = Options(pace=0.1, changed=dict.fromkeys(("health_check", "ejection", "slow_start")))

    verdict = run_case(Case("hostile", hostile), 1, options, tmp_path)

    assert verdict.holds, verdict_table([verdict])
