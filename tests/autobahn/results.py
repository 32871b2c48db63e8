"""What Autobahn found: verdicts, and which of them are worse than others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

#: Verdicts on what came back, and on how the connection ended, from the best to the worst.
BEHAVIOR = ("OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED")
CLOSE = ("OK", "INFORMATIONAL", "WRONG CODE", "FAILED BY CLIENT", "UNCLEAN")

#: Cases in which a bad frame follows a good message. Who fails a connection at once, as RFC 6455
#: §7.1.7 has it, may not echo that any more: OK or NON-STRICT is a matter of milliseconds.
RACES = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}


class Result(NamedTuple):
    """Autobahn's verdicts on one case."""

    behavior: str
    close: str

    def is_worse_than(self, other: Result) -> bool:
        """Whether either verdict is. One that is not known is worse than any."""
        return _rank(BEHAVIOR, self.behavior) > _rank(BEHAVIOR, other.behavior) or (
            _rank(CLOSE, self.close) > _rank(CLOSE, other.close)
        )

    def __str__(self) -> str:
        return self.behavior if self.close == "OK" else f"{self.behavior}, close {self.close}"


#: By the case's number.
Results: TypeAlias = Mapping[str, Result]


def _rank(verdicts: Sequence[str], verdict: str) -> int:
    return verdicts.index(verdict) if verdict in verdicts else len(verdicts)


def read_report(report: Path) -> Mapping[str, Results]:
    """Autobahn's `index.json`: what it found, by the name of who was tested."""
    return {
        name: {
            case: Result(result["behavior"], result["behaviorClose"])
            for case, result in results.items()
        }
        for name, results in json.loads(report.read_text()).items()
    }


def worse_cases(found: Mapping[str, Results], reference: str) -> Sequence[str]:
    """In which cases somebody did worse than the reference, in words."""
    return [
        f"{name}: case {case} is {result}, without a gateway {found[reference][case]}"
        for name, results in found.items()
        for case, result in results.items()
        if result.is_worse_than(found[reference][case])
        and not (case in RACES and result == Result("NON-STRICT", "OK"))
    ]


def counts(found: Mapping[str, Results]) -> str:
    """How often each verdict was given, as a table."""
    lines = [f"{'':30}" + "".join(f"{verdict:>14}" for verdict in (*BEHAVIOR, "WRONG CLOSE"))]
    for name, results in found.items():
        count = Counter(result.behavior for result in results.values())
        wrong = sum(_rank(CLOSE, result.close) > 1 for result in results.values())
        numbers = (*(count[verdict] for verdict in BEHAVIOR), wrong)
        lines.append(f"{name:30}" + "".join(f"{number:14}" for number in numbers))
    return "\n".join(lines)
