"""Load at full speed: wrk, with a script that checks every answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .payloads import Payload
from .processes import BenchmarkError, on_core
from .tools import find_tool
from .visitors import Visitor

_SCRIPT = Path(__file__).with_name("check.lua")


@dataclass(frozen=True, slots=True)
class Report:
    """What wrk has seen: the answers, and how many of them were wrong in which way."""

    answers: int
    wrong_status: int
    wrong_length: int
    wrong_received: int
    wrong_origin: int
    socket_errors: int
    timeouts: int

    @property
    def counts(self) -> dict[str, int]:
        """All of it by name."""
        return asdict(self)

    def check(self, name: str) -> None:
        """Raises BenchmarkError if anything was wrong, or nothing happened."""
        wrong = {key: count for key, count in self.counts.items() if key != "answers" and count}
        if wrong or not self.answers:
            raise BenchmarkError(f"{name}: of {self.answers} answers were wrong: {wrong}")


def plan_of(payload: Payload, visitors: Sequence[Visitor]) -> str:
    """The Lua table that the script is to read."""
    # What JSON makes of printable ASCII is a Lua string too.
    rows = "".join(
        f"{{{json.dumps(visitor.cookie)}, {json.dumps(visitor.origin)}}},\n" for visitor in visitors
    )
    return (
        f'return {{method = "{payload.method}", path = "{payload.path}", sent = {payload.sent}, '
        f"received = {payload.received}, is_unique = {str(payload.is_unique).lower()}, "
        f"visitors = {{\n{rows}}}}}\n"
    )


def run_wrk(
    port: int,
    payload: Payload,
    visitors: Sequence[Visitor],
    *,
    connections: int,
    seconds: int,
    core: int,
    folder: Path,
) -> Report:
    """Send requests for so many seconds and report what came back."""
    plan = folder / "plan.lua"
    plan.write_text(plan_of(payload, visitors))
    command = [find_tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(plan)]
    with on_core(core):
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    _, _, report = result.stdout.partition("\nREPORT ")
    if result.returncode or not report:
        raise BenchmarkError(f"wrk failed: {result.stdout}{result.stderr}")
    return Report(**json.loads(report))
