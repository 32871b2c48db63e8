"""Run Autobahn's cases against an echo server, and against gateways in front of it.

The fuzzing client sends each of them what RFC 6455 allows and what it forbids: odd fragments,
invalid UTF-8, reserved bits, wrong close codes. A gateway passes when it does as well as the echo
server in every case. Cases 9 are about speed, and 12 and 13 about compression, which neither has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tests.servers import eventually, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = [f"{chapter}.*" for chapter in (1, 2, 3, 4, 5, 6, 7, 10)]
HOW_MANY = 247

#: Verdicts on what came back, and on how the connection ended, from the best to the worst.
BEHAVIOR = ("OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED")
CLOSE = ("OK", "INFORMATIONAL", "WRONG CODE", "FAILED BY CLIENT", "UNCLEAN")

#: Cases in which a bad frame follows a good message. Who fails a connection at once, as RFC 6455
#: §7.1.7 has it, may not echo that any more: OK or NON-STRICT is a matter of milliseconds.
RACES = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}

#: Seconds for all cases with one server. They take some 15.
TIMEOUT = 180

_APPS = "tests.autobahn.app"
_OPTIONS = ("--no-access-log", "--log-level=warning", "--port={port}")

DIRECT = "echo server"
#: The gateways: modules, and their arguments.
GATEWAYS: Mapping[str, Sequence[str]] = {
    "sticky-asgi run": ("sticky_asgi", "run", "--backend={backend}", "--port={port}"),
    **{
        f"uvicorn --ws {name}": ("uvicorn", f"{_APPS}:before_server", f"--ws={name}", *_OPTIONS)
        for name in ("websockets", "websockets-sansio", "wsproto")
    },
    "in process": ("uvicorn", f"{_APPS}:before_app", *_OPTIONS),
}


class RunError(Exception):
    """The run cannot be made, or not be trusted: the message says why."""


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


class Autobahn(NamedTuple):
    """Where the fuzzing client is: a Python 2.7, its packages, and a folder for its reports."""

    python: str
    packages: Path
    reports: Path

    def test(self, ports: Mapping[str, int]) -> Mapping[str, Results]:
        """Run all cases against each of the servers, one after the other."""
        self.reports.mkdir(parents=True, exist_ok=True)
        report = self.reports / "index.json"
        report.unlink(missing_ok=True)
        spec = {
            "outdir": str(self.reports),
            "servers": [
                {"agent": name, "url": f"ws://127.0.0.1:{port}"} for name, port in ports.items()
            ],
            "cases": CASES,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (self.reports / "spec.json").write_text(json.dumps(spec))
        self._run(TIMEOUT * len(ports))
        if not report.exists():
            raise RunError(f"the fuzzing client made no report:\n{_tail(self._log)}")
        return {
            name: {
                case: Result(result["behavior"], result["behaviorClose"])
                for case, result in results.items()
            }
            for name, results in json.loads(report.read_text()).items()
        }

    @property
    def _log(self) -> Path:
        return self.reports / "fuzzing_client.log"

    def _run(self, timeout: float) -> None:
        command = [self.python, "-m", "autobahntestsuite.wstest", "--mode=fuzzingclient"]
        with self._log.open("wb") as output:
            try:
                subprocess.run(
                    [*command, f"--spec={self.reports / 'spec.json'}"],
                    env={**os.environ, "PYTHONUSERBASE": str(self.packages)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise RunError(f"the fuzzing client failed: {exc}\n{_tail(self._log)}") from None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def serving(module: str, *arguments: str, backend: int, log: Path) -> Iterator[int]:
    """Run a server for the time of a `with` block, and yield its port."""
    port = free_port()
    url = f"http://127.0.0.1:{backend}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module]
            + [argument.format(port=port, backend=url) for argument in arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "AUTOBAHN_BACKEND": url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def has_started() -> bool:
        if process.poll() is not None:
            raise RunError(f"{module} ended at once:\n{_tail(log)}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(has_started, 30, f"{module} accepts connections")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(autobahn: Autobahn, gateways: Sequence[str]) -> Mapping[str, Results]:
    """Test the echo server and gateways in front of it.

    Raises RunError if any case was left out, or a gateway failed otherwise.
    """
    autobahn.reports.mkdir(parents=True, exist_ok=True)
    logs = {
        name: autobahn.reports / f"{name.replace(' ', '_')}.log" for name in (DIRECT, *gateways)
    }
    with contextlib.ExitStack() as stack:
        start = serving("tests.autobahn.echo", "{port}", backend=0, log=logs[DIRECT])
        ports = {DIRECT: stack.enter_context(start)}
        for name in gateways:
            start = serving(*GATEWAYS[name], backend=ports[DIRECT], log=logs[name])
            ports[name] = stack.enter_context(start)
        found = autobahn.test(ports)
    for name, log in logs.items():
        if len(found.get(name, ())) != HOW_MANY:
            raise RunError(f"{name}: {len(found.get(name, ()))} cases, not {HOW_MANY}")
        # uvicorn writes tracebacks of its own, one for each message that is not UTF-8.
        text = log.read_text(errors="replace")
        if "/sticky_asgi/" in text or "never retrieved" in text:
            raise RunError(f"{name} wrote a traceback: {log}")
    return {name: found[name] for name in logs}


def worse_cases(found: Mapping[str, Results]) -> Sequence[str]:
    """What the gateways did worse than the echo server, in words."""
    return [
        f"{name}: case {case} is {result}, with the echo server {found[DIRECT][case]}"
        for name, results in found.items()
        for case, result in results.items()
        if result.is_worse_than(found[DIRECT][case])
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 if a gateway did worse than the echo server."""
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument("--python", default="python2.7", help="the Python 2.7 Autobahn runs on")
    parser.add_argument("--packages", type=Path, required=True, help="where its packages are")
    parser.add_argument("--reports", type=Path, required=True, help="a folder for its reports")
    parser.add_argument("--gateway", action="append", choices=GATEWAYS, help="repeatable")
    arguments = parser.parse_args(argv)
    autobahn = Autobahn(arguments.python, arguments.packages.resolve(), arguments.reports.resolve())
    try:
        found = run(autobahn, arguments.gateway or list(GATEWAYS))
    except RunError as exc:
        sys.stderr.write(f"autobahn: {exc}\n")
        return 1
    worse = worse_cases(found)
    report = arguments.reports / "index.html"
    sys.stdout.write("\n".join([counts(found), *worse, f"Every case: {report}", ""]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
