"""`python -m benchmarks`: run the cases, print the tables, and say which targets hold."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .cases import CASES
from .machine import describe
from .origin import running_origins
from .processes import BenchmarkError, allow_open_files, choose_cores, on_core
from .results import Series, judge
from .runner import Bench
from .subjects import SUBJECTS
from .table import check_page, rewrite, series_table, verdict_table
from .targets import TARGETS

ORIGINS = 4
TITLES = {subject.name: subject.title for subject in SUBJECTS.values()}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="only this; repeatable")
    parser.add_argument(
        "--peer",
        action="append",
        choices=[name for name in SUBJECTS if name != "gateway"],
        help="only the gateway and this; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--seconds", type=int, default=3, help="how long each time")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    arguments = parser.parse_args(argv)
    if arguments.write and (arguments.case or arguments.peer):
        parser.error("--write takes a whole run")
    if arguments.rounds < 1 or arguments.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return arguments


def _section(series: Series) -> str:
    return f"### {series.title[0].upper()}{series.title[1:]}\n\n{series_table(series, TITLES)}\n"


def run(arguments: argparse.Namespace) -> None:
    """Run what was asked for. Raises BenchmarkError if any answer was wrong."""
    if arguments.write:
        check_page(arguments.write)
    cores = choose_cores()
    allow_open_files()
    found: list[Series] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        on_core(cores.load),
        running_origins(Path(name) / "origin", ORIGINS, core=cores.load) as origins,
    ):
        bench = Bench(cores, origins, Path(name), arguments.rounds, arguments.seconds)
        for case in arguments.case or CASES:
            for series in CASES[case].run(bench, arguments.peer or ()):
                print(f"\n{_section(series)}", flush=True)
                found.append(series)
    checked = ", ".join(f"{key.replace('_', ' ')}: {n:,}" for key, n in bench.tally.items())
    verdicts = verdict_table(judge(TARGETS, found), TITLES)
    if arguments.write:
        about = describe(arguments.rounds, arguments.seconds)
        sections = "\n".join(map(_section, found))
        rewrite(arguments.write, f"{about}\n\n### Targets\n\n{verdicts}\n\n{sections}")
    print(f"\n{checked}\n\n{verdicts}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 if a run failed, whatever the figures are."""
    arguments = _arguments(argv)
    try:
        run(arguments)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # A terminated run ends what it has started, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
