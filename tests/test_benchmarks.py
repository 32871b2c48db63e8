"""The parts of the benchmark that need neither load nor peers: figures, tables, /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from operator import attrgetter
from pathlib import Path

import pytest
from benchmarks import proc
from benchmarks.__main__ import TITLES, main
from benchmarks.apps.empty import app
from benchmarks.cases import CASES
from benchmarks.discovery import MANY_CHANGES, OF_MANY_PODS, ONE_BY_ONE
from benchmarks.frames import (
    SHORT,
    Handshake,
    accept_of,
    answered,
    asked,
    echo,
    farewell,
    fields_of,
)
from benchmarks.payloads import LARGE, MEDIUM, SMALL, UPLOAD, Payload
from benchmarks.pools import POLICIES
from benchmarks.processes import BenchmarkError, choose_cores, on_core
from benchmarks.results import Series, Target, judge, side_by_side
from benchmarks.subjects import SUBJECTS
from benchmarks.table import BEGIN, END, number, replace_part, series_table, table, verdict_table
from benchmarks.targets import TARGETS
from benchmarks.visitors import Visitor, headers_of
from benchmarks.wrk import Report, plan_of
from starlette.testclient import TestClient

from .servers import ROOT

# The machine was half as fast in the second round, and one figure of the third is an outlier.
SERIES = Series(
    "100b",
    "100 B",
    "µs",
    [
        {"gateway": 50.0, "traefik": 60.0},
        {"gateway": 100.0, "traefik": 120.0},
        {"gateway": 50.0, "traefik": 600.0},
    ],
    compare="gateway",
)


# Figures


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    assert SERIES.ratio("gateway", "traefik") == pytest.approx(50 / 60)
    assert SERIES.ratio("traefik", "gateway") == pytest.approx(1.2)
    assert SERIES.median("traefik") == 120.0


def test_measurements_of_different_subjects_share_rounds() -> None:
    assert side_by_side([[{"a": 1.0}, {"a": 2.0}], [{"b": 3.0}, {"b": 4.0}]]) == [
        {"a": 1.0, "b": 3.0},
        {"a": 2.0, "b": 4.0},
    ]


@pytest.mark.parametrize(
    ("target", "measured", "holds"),
    [
        pytest.param(Target("100b", "gateway", "traefik", 1.0), 50 / 60, True, id="kept"),
        pytest.param(Target("100b", "traefik", "gateway", 1.0), 1.2, False, id="missed"),
        pytest.param(Target("100b", "gateway", None, 50.0), 50.0, True, id="absolute-kept"),
        pytest.param(Target("100b", "gateway", None, 49.9), 50.0, False, id="absolute-missed"),
    ],
)
def test_a_target_is_held_against_what_was_measured(
    target: Target, measured: float, holds: bool
) -> None:
    (verdict,) = judge([target], [SERIES])
    assert verdict.measured == pytest.approx(measured)
    assert verdict.holds is holds


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(Target("1m", "gateway", "traefik", 1.0), id="series"),
        pytest.param(Target("100b", "caddy", "traefik", 1.0), id="subject"),
        pytest.param(Target("100b", "gateway", "caddy", 1.0), id="reference"),
    ],
)
def test_a_target_is_not_judged_without_a_figure(target: Target) -> None:
    assert judge([target], [SERIES]) == []


def test_every_target_is_about_something_that_is_measured() -> None:
    for target in TARGETS:
        case = CASES[target.series.split()[0]]
        if case.name == "backends":
            policies = {"sticky", *POLICIES}
            assert target.subject.partition(",")[0] in policies
        elif case.name == "discovery":
            assert target.subject.rpartition(",")[0] in {ONE_BY_ONE, OF_MANY_PODS, MANY_CHANGES}
        else:
            assert {target.subject, target.reference or target.subject} <= {*case.subjects}


def test_every_subject_takes_part_somewhere() -> None:
    assert {name for case in CASES.values() for name in case.subjects} == {*SUBJECTS}


# Tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(12345.6, "12,346", id="thousands"),
        pytest.param(123.4, "123", id="hundreds"),
        pytest.param(12.34, "12.3", id="tens"),
        pytest.param(1.234, "1.23", id="ones"),
        pytest.param(0.0294, "0.029", id="hundredths"),
    ],
)
def test_a_figure_is_as_long_as_it_means_something(value: float, text: str) -> None:
    assert number(value) == text


def test_a_table_is_aligned() -> None:
    assert table(["", "figure"], [["long name", "1"], ["x", "22"]]).splitlines() == [
        "|           | figure |",
        "|-----------|-------:|",
        "| long name |      1 |",
        "| x         |     22 |",
    ]


def test_the_table_of_a_series_compares_with_the_gateway() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in series_table(SERIES, TITLES).splitlines()
    ]
    assert rows[0] == ["", "µs, median", "lowest", "highest", "sticky-asgi is"]
    assert rows[2:] == [
        ["sticky-asgi", "50.0", "50.0", "100", ""],
        ["Traefik", "120", "60.0", "600", "0.83 ×"],
    ]


def test_the_last_table_says_what_holds() -> None:
    targets = [
        Target("100b", "gateway", "traefik", 1.0),
        Target("100b", "traefik", "gateway", 1.1),
        Target("100b", "gateway", None, 60.0),
    ]
    lines = verdict_table(judge(targets, [SERIES]), TITLES).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["100 B", "sticky-asgi", "Traefik", "1 ×", "0.83 ×", "yes"],
        ["100 B", "Traefik", "sticky-asgi", "1.1 ×", "1.20 ×", "**no**"],
        ["100 B", "sticky-asgi", "", "60 µs", "50.0 µs", "yes"],
    ]


def test_only_the_part_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_part(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize("page", ["no marks", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_the_marks_is_left_alone(page: str) -> None:
    with pytest.raises(BenchmarkError, match="lacks the lines"):
        replace_part(page, "new")


def test_the_documentation_has_the_marks() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert replace_part(text, "new") != text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("no marks", "lacks the lines", id="no-marks"),
        pytest.param(None, "No such file", id="no-page"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_at_once(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert main(["--write", str(page)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--write", "page", "--case", "100b"], id="part-of-the-cases"),
        pytest.param(["--write", "page", "--peer", "traefik"], id="part-of-the-peers"),
        pytest.param(["--rounds", "0"], id="no-rounds"),
        pytest.param(["--case", "200b"], id="unknown-case"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


# Answers


GOOD = Report(
    answers=9,
    wrong_status=0,
    wrong_length=0,
    wrong_received=0,
    wrong_origin=0,
    socket_errors=0,
    timeouts=0,
)


def test_right_answers_pass() -> None:
    GOOD.check("gateway")


@pytest.mark.parametrize("name", [name for name in GOOD.counts if name != "answers"])
def test_one_wrong_answer_fails(name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"gateway.*'{name}': 1"):
        Report(**(GOOD.counts | {name: 1})).check("gateway")


def test_no_answer_fails() -> None:
    with pytest.raises(BenchmarkError):
        Report(**(GOOD.counts | {"answers": 0})).check("gateway")


def test_a_plan_quotes_what_cookies_may_hold() -> None:
    plan = plan_of(SMALL, [Visitor('a="b\\c"', "origin-1"), Visitor()])
    assert '{"a=\\"b\\\\c\\"", "origin-1"},\n{"", ""},\n' in plan


def test_a_visitor_sends_what_it_knows() -> None:
    assert headers_of(Visitor("a=b", "origin-1")) == {"Cookie": "a=b", "X-Want": "origin-1"}
    assert headers_of(Visitor()) == {}


@pytest.mark.parametrize("payload", [SMALL, MEDIUM, LARGE, UPLOAD], ids=attrgetter("path"))
def test_the_empty_application_answers_as_many_bytes_as_the_origin(payload: Payload) -> None:
    body = b"x" * payload.sent
    response = TestClient(app).request(payload.method, payload.path, content=body)
    assert response.status_code == 200
    assert len(response.content) == payload.received


# WebSockets


def acceptance(handshake: Handshake, **fields: str) -> bytes:
    key = fields_of(handshake.request)[b"sec-websocket-key"]
    answer = {"sec-websocket-accept": accept_of(key).decode()} | fields
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in answer.items()]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def test_the_answer_to_a_handshake_is_the_one_of_the_rfc() -> None:
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_handshake_is_accepted_by_the_origin_that_was_wanted() -> None:
    handshake = Handshake(Visitor("a=b", "origin-1"))
    fields = fields_of(handshake.request)
    assert (fields[b"cookie"], fields[b"x-want"]) == (b"a=b", b"origin-1")
    assert handshake.problem(acceptance(handshake, x_origin="origin-1")) is None
    assert Handshake(Visitor()).problem(b"HTTP/1.1 403 Forbidden\r\n\r\n") is not None


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"x_origin": "origin-2"}, id="another-origin"),
        pytest.param({}, id="no-origin"),
        pytest.param({"x_origin": "origin-1", "sec-websocket-accept": "x"}, id="wrong-key"),
        pytest.param(
            {"x_origin": "origin-1", "sec-websocket-extensions": "permessage-deflate"},
            id="extension",
        ),
    ],
)
def test_a_wrong_acceptance_is_noticed(fields: dict[str, str]) -> None:
    handshake = Handshake(Visitor("a=b", "origin-1"))
    assert handshake.problem(acceptance(handshake, **fields)) is not None


@pytest.mark.parametrize("size", [0, 100, SHORT])
def test_the_origin_echoes_each_message_when_it_is_complete(size: int) -> None:
    message = os.urandom(size)
    frame = asked(message)
    assert echo(frame) == (answered(message), len(frame), False)
    assert echo(frame[:-1]) == (b"", 0, False)
    assert echo(frame * 2 + frame[:3]) == (answered(message) * 2, len(frame) * 2, False)


def test_the_origin_says_goodbye() -> None:
    answer, read, has_ended = echo(asked(b"last") + farewell())
    assert answer == answered(b"last") + b"\x88\x02\x03\xe8"
    assert read == len(asked(b"last") + farewell())
    assert has_ended


@pytest.mark.parametrize(
    "data", [pytest.param(answered(b"x"), id="unmasked"), pytest.param(b"\x81\x80", id="long-text")]
)
def test_the_origin_takes_no_other_frames(data: bytes) -> None:
    with pytest.raises(ValueError):
        echo(data + bytes(8))


def test_the_empty_application_echoes() -> None:
    with TestClient(app).websocket_connect("/echo") as websocket:
        websocket.send_bytes(b"message")
        assert websocket.receive_bytes() == b"message"


# Processes


def test_cpu_time_is_the_one_the_kernel_counts() -> None:
    least = time.process_time()
    counted = proc.cpu_seconds([os.getpid()])
    most = time.process_time()
    assert least - 0.05 <= counted <= most + 0.05


def test_memory_is_counted() -> None:
    me = [os.getpid()]
    before = proc.resident_bytes(me)
    held = bytearray(os.urandom(32 * 1024 * 1024))
    assert proc.resident_bytes(me) - before > 16 * 1024 * 1024
    assert proc.peak_bytes(me) >= proc.resident_bytes(me) - 1024 * 1024
    assert len(held) == 32 * 1024 * 1024


def test_a_tree_holds_children_and_theirs() -> None:
    script = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'input()']);"
        "print('started', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            pids = proc.tree(child.pid)
            assert pids[0] == child.pid
            assert len(pids) == 2
            assert {*pids} <= {*proc.tree(os.getpid())}
        finally:
            child.communicate(b"\n\n")


def test_children_stay_on_the_core_they_were_started_on() -> None:
    available = os.sched_getaffinity(0)
    core = min(available)
    with on_core(core):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert proc.cores_of([child.pid]) == {core}
        assert os.sched_getaffinity(0) == available
    finally:
        child.communicate(b"\n")


def test_two_cores_are_needed() -> None:
    with on_core(min(os.sched_getaffinity(0))), pytest.raises(BenchmarkError, match="two cores"):
        choose_cores()
