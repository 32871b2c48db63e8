"""`python -m tests.chaos`: run the cases, print what was promised and what was found."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .answers import NoAnswer
from .arena import Arena, Options
from .bounds import Check, Verdict, verdict_table
from .cases import CASES, Case
from .gateway import ChaosError
from .page import rewrite


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key, yaml.safe_load(value)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="only this; repeatable")
    parser.add_argument("--minutes", type=int, help="run steady, too, for so long (usually 10)")
    parser.add_argument("--seed", type=int, default=1, help="all that is random follows from it")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        help="a key of the pools, such as retry=null: does a case notice?",
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the gateways' logs there")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    arguments = parser.parse_args(argv)
    if arguments.write and (arguments.case or arguments.set):
        parser.error("--write takes a whole run")
    if arguments.minutes is not None and arguments.minutes < 3:
        parser.error("--minutes must be at least 3: the second one is compared with the last")
    return arguments


def _chosen(arguments: argparse.Namespace) -> list[Case]:
    if arguments.case:
        return [CASES[name] for name in arguments.case]
    return [case for case in CASES.values() if case.is_usual or arguments.minutes]


def run_case(case: Case, workers: int, options: Options, folder: Path) -> Verdict:
    """Run one case. If that cannot be done, this is what was found."""
    title = case.name if workers == 1 else f"{case.name}, {workers} workers"
    sys.stderr.write(f"{title}\n")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Arena(folder, options, workers) as arena:
            return Verdict(title, asyncio.run(case.run(arena)))
    except (ChaosError, NoAnswer) as exc:
        return Verdict(title, [Check("could not be run", "", str(exc), False)])


def _about(options: Options) -> str:
    linux = ".".join(platform.release().split(".")[:2])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return (
        f"Found on {day}, with seed {options.seed}, on {os.cpu_count()} cores, Linux {linux}, "
        f"{platform.python_implementation()} {platform.python_version()}."
    )


def run(arguments: argparse.Namespace) -> bool:
    """Run what was asked for; whether all promises were kept. Raises ChaosError."""
    if arguments.write:
        rewrite(arguments.write, None)
    options = Options(arguments.seed, arguments.minutes or 10, dict(arguments.set))
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = arguments.logs or Path(name)
        verdicts = [
            run_case(case, workers, options, folder / f"{case.name}-{workers}")
            for case in _chosen(arguments)
            for workers in case.workers
        ]
    found = verdict_table(verdicts)
    if arguments.write:
        rewrite(arguments.write, f"{_about(options)}\n\n{found}")
    sys.stdout.write(f"\n{found}\n")
    return all(verdict.holds for verdict in verdicts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 if a promise was not kept, or a case not run."""
    try:
        return 0 if run(_arguments(argv)) else 1
    except ChaosError as exc:
        sys.stderr.write(f"chaos: {exc}\n")
        return 1


if __name__ == "__main__":
    # A terminated run ends what it has started, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
