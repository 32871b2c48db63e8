"""What `make autobahn` makes of Autobahn's verdicts. It is not run here: it needs a Python 2.7."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.autobahn.results import Result, counts, read_report, worse_cases


@pytest.mark.parametrize(
    ("case", "result", "reference", "is_worse"),
    [
        pytest.param("1.1.1", ("OK", "OK"), ("OK", "OK"), False, id="as good"),
        pytest.param("1.1.1", ("FAILED", "OK"), ("OK", "OK"), True, id="failed"),
        pytest.param("7.1.5", ("FAILED", "OK"), ("FAILED", "OK"), False, id="both failed"),
        pytest.param("7.1.5", ("OK", "OK"), ("FAILED", "WRONG CODE"), False, id="better"),
        pytest.param("7.7.1", ("OK", "WRONG CODE"), ("OK", "OK"), True, id="wrong code"),
        pytest.param("1.1.1", ("NON-STRICT", "OK"), ("OK", "OK"), True, id="not strict"),
        pytest.param("3.2", ("NON-STRICT", "OK"), ("OK", "OK"), False, id="a race"),
        pytest.param("3.2", ("NON-STRICT", "UNCLEAN"), ("OK", "OK"), True, id="no race"),
        pytest.param("1.1.1", ("NEW", "OK"), ("FAILED", "OK"), True, id="unknown"),
    ],
)
def test_worse(
    case: str, result: tuple[str, str], reference: tuple[str, str], is_worse: bool
) -> None:
    found = {"direct": {case: Result(*reference)}, "gateway": {case: Result(*result)}}

    worse = worse_cases(found, "direct")

    assert len(worse) == is_worse
    assert all(line.startswith(f"gateway: case {case} is {result[0]}") for line in worse)


def test_report(tmp_path: Path) -> None:
    report = tmp_path / "index.json"
    cases = {
        "1.1.1": {"behavior": "OK", "behaviorClose": "OK", "duration": 1},
        "1.1.2": {"behavior": "FAILED", "behaviorClose": "UNCLEAN", "duration": 2},
    }
    report.write_text(json.dumps({"gateway": cases}))

    found = read_report(report)

    assert found == {"gateway": {"1.1.1": ("OK", "OK"), "1.1.2": ("FAILED", "UNCLEAN")}}
    header, row = counts(found).splitlines()
    assert header.split()[:3] == ["OK", "INFORMATIONAL", "NON-STRICT"]
    assert row.split() == ["gateway", "1", "0", "0", "0", "1", "1"]
