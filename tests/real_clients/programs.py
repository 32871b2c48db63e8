"""Replicas of the examples, a gateway before them, and the programs that visit it.

All of them are processes of their own: replicas that share a process would share their memory. The
gateway is `sticky-asgi run` with the example's own file, in which only the ports are changed, and
the affinity taken out where a test shows what it is for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import ROOT, ProcessBackend

HERE = Path(__file__).parent
REPLICAS = 3
VISIT_TIMEOUT = 100.0

#: An app's command line behind Python's, by the port that it is to listen on.
Command = Callable[[int], Sequence[str]]


class Program(ProcessBackend):
    """A Python program that listens on the port it is told; started and ended as any backend."""

    # Gradio imports for seconds even on an idle machine.
    start_timeout = 90.0

    def __init__(self, command: Command, env: dict[str, str] | None = None) -> None:
        super().__init__(env=env)
        # Gradio takes no port on the command line.
        self._env["GRADIO_SERVER_PORT"] = str(self.port)
        self._command = [sys.executable, *command(self.port)]


@dataclass(frozen=True)
class Front:
    """Two gateways before the same replicas.

    Attributes:
        sticky: URL of the one that is as the example says.
        balanced: URL of the one without affinity.
        pids: The replicas' process ids.
    """

    sticky: str
    balanced: str
    pids: frozenset[int]


@contextlib.contextmanager
def served(example: str, command: Command, folder: Path) -> Iterator[Front]:
    """Serve replicas of an example.

    Args:
        example: Its folder below `examples/`.
        command: A replica's command line.
        folder: Where the gateways' files and the replicas' own files go.
    """
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as starters:
        replicas = [
            Program(command, _environment(folder / f"replica{number}"))
            for number in range(REPLICAS)
        ]
        urls = [replica.url for replica in replicas]
        gateways = [
            Program(gateway(example, urls, folder, sticky=sticky), {"STICKY_SECRET": "s" * 32})
            for sticky in (True, False)
        ]
        for program in (*replicas, *gateways):
            stack.callback(program.kill)
        # Most of the time goes into imports.
        list(starters.map(Program.start, (*replicas, *gateways)))
        sticky, balanced = (program.url for program in gateways)
        yield Front(sticky, balanced, frozenset(replica.pid for replica in replicas))


def _environment(folder: Path) -> dict[str, str]:
    """A replica's own folder for files, so that none is found by the others; and no calls home."""
    folder.mkdir()
    return {
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "STREAMLIT_SERVER_ADDRESS": "127.0.0.1",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_SERVER_FILE_WATCHER_TYPE": "none",
    }


def gateway(example: str, backends: Sequence[str], folder: Path, *, sticky: bool) -> Command:
    """Write the example's configuration for these backends; the command that serves it."""
    text = (ROOT / "examples" / example / "gateway.yaml").read_text(encoding="utf-8")
    configuration = yaml.safe_load(text)
    (pool,) = configuration["pools"].values()
    pool["backends"] = list(backends)
    if not sticky:
        del pool["affinity"]
    file = folder / f"{'sticky' if sticky else 'balanced'}.yaml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return lambda port: ["-m", "sticky_asgi", "run", str(file), "--port", str(port)]


def required(*names: str) -> str:
    """The first of these programs that is there. Without one, the test fails: it is not skipped."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"{names[0]} is needed; `make real-clients` says how to get it")
    return found


def node(script: str, *args: str, browser: bool = False) -> Any:
    """What a script of this folder prints, which is JSON.

    Args:
        script: Its name.
        args: What it gets behind its name.
        browser: Whether it needs Chromium.
    """
    if not (HERE / "node_modules").is_dir():
        pytest.fail("the packages of package.json are needed; run `make real-clients`")
    env = dict(os.environ)
    if browser:
        env["CHROMIUM"] = required("chromium", "chromium-browser", "google-chrome")
    result = subprocess.run(
        [required("node"), str(HERE / script), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=VISIT_TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
