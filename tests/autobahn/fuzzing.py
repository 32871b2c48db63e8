"""Autobahn's fuzzing client and fuzzing server, which run on Python 2.7."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.servers import free_port

from .client import run_cases
from .processes import RunError, serving, tail
from .results import Results, read_report

#: Cases 9 are about speed, and 12 and 13 about compression, which is not tested here.
CASES = [f"{chapter}.*" for chapter in (1, 2, 3, 4, 5, 6, 7, 10)]
HOW_MANY = 247

#: Seconds for all cases with one peer. They take some 15.
TIMEOUT = 180


class Autobahn(NamedTuple):
    """Where it is: a Python 2.7, its packages, and a folder for what it writes."""

    python: str
    packages: Path
    reports: Path

    def test_servers(self, ports: Mapping[str, int]) -> Mapping[str, Results]:
        """Be the client of each of these servers, one after the other."""
        servers = [{"agent": name, "url": f"ws://127.0.0.1:{port}"} for name, port in ports.items()]
        command = self._prepare("fuzzingclient", {"servers": servers})
        log = self.reports / "fuzzingclient.log"
        with log.open("wb") as output:
            try:
                subprocess.run(
                    command,
                    env={**os.environ, **self._env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=TIMEOUT * len(ports),
                    check=True,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise RunError(f"Autobahn failed: {exc}\n{tail(log)}") from None
        return self._found("fuzzingclient", ports)

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Be a server for the time of a `with` block. Yields the port."""
        port = free_port()
        command = self._prepare("fuzzingserver", {"url": f"ws://127.0.0.1:{port}"})
        # Its reports are read as files.
        command.append("--webport=0")
        log = self.reports / "fuzzingserver.log"
        with serving(command, port, env=self._env, log=log):
            yield port

    def test_clients(self, server: int, ports: Mapping[str, int]) -> Mapping[str, Results]:
        """While it is serving, have a client connect by each of these ports."""

        async def run() -> None:
            for name, port in ports.items():
                async with asyncio.timeout(TIMEOUT):
                    await run_cases(server, name, through=port)

        asyncio.run(run())
        return self._found("fuzzingserver", ports)

    @property
    def _env(self) -> Mapping[str, str]:
        return {"PYTHONUSERBASE": str(self.packages)}

    def _prepare(
        self, mode: Literal["fuzzingclient", "fuzzingserver"], options: Mapping[str, Any]
    ) -> list[str]:
        """Write what it is to do, and return how it is started."""
        folder = self.reports / mode
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)
        cases = {"cases": CASES, "exclude-cases": [], "exclude-agent-cases": {}}
        spec = self.reports / f"{mode}.json"
        spec.write_text(json.dumps({**options, **cases, "outdir": str(folder)}))
        return [self.python, "-m", "autobahntestsuite.wstest", f"--mode={mode}", f"--spec={spec}"]

    def _found(self, mode: str, ports: Mapping[str, int]) -> Mapping[str, Results]:
        report = self.reports / mode / "index.json"
        if not report.exists():
            raise RunError(f"Autobahn wrote no report:\n{tail(self.reports / f'{mode}.log')}")
        found = read_report(report)
        for name in ports:
            how_many = len(found.get(name, ()))
            if how_many != HOW_MANY:
                raise RunError(f"{name}: {how_many} cases were tested, not {HOW_MANY}")
        return {name: found[name] for name in ports}
