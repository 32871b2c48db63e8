"""Run Autobahn's cases with a gateway between it and an echo.

Autobahn sends what RFC 6455 allows and what it forbids: odd fragments, invalid UTF-8, reserved
bits, wrong close codes. As a client it tests how a gateway treats its clients, as a server how it
treats its backends. A gateway passes when no case goes worse than without it. Half a second is what
Autobahn gives some of the answers: run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.servers import ROOT, free_port

from .fuzzing import Autobahn
from .processes import RunError, serving
from .results import Results, counts, worse_cases

DIRECT = "no gateway"

_APPS = "tests.autobahn.app"
_OPTIONS = ("--no-access-log", "--log-level=warning", "--port={port}")

#: The gateways: modules, and their arguments.
GATEWAYS: Mapping[str, Sequence[str]] = {
    "sticky-asgi run": ("sticky_asgi", "run", "--backend={backend}", "--port={port}"),
    **{
        f"uvicorn --ws {name}": ("uvicorn", f"{_APPS}:before_server", f"--ws={name}", *_OPTIONS)
        for name in ("websockets", "websockets-sansio", "wsproto")
    },
    "in process": ("uvicorn", f"{_APPS}:before_app", *_OPTIONS),
}
#: Those differ in how they serve clients; the other side is the same.
GATEWAY_BEFORE_SERVER = "sticky-asgi run"


@contextlib.contextmanager
def _running(module: str, *arguments: str, backend: int, log: Path) -> Iterator[int]:
    port = free_port()
    url = f"http://127.0.0.1:{backend}"
    command = [argument.format(port=port, backend=url) for argument in arguments]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "AUTOBAHN_BACKEND": url}
    with serving([sys.executable, "-m", module, *command], port, env=env, log=log):
        yield port
    # uvicorn writes tracebacks of its own, one for each message that is not UTF-8.
    text = log.read_text(errors="replace")
    if "/sticky_asgi/" in text or "never retrieved" in text:
        raise RunError(f"a gateway failed; see {log}")


def before_clients(autobahn: Autobahn, gateways: Sequence[str]) -> Mapping[str, Results]:
    """Autobahn is the client."""
    with contextlib.ExitStack() as stack:

        def start(name: str, command: Sequence[str], backend: int) -> int:
            log = autobahn.reports / f"{name.replace(' ', '_')}.log"
            return stack.enter_context(_running(*command, backend=backend, log=log))

        echo = start(DIRECT, ("tests.autobahn.echo", "{port}"), 0)
        ports = {name: start(name, GATEWAYS[name], echo) for name in gateways}
        return autobahn.test_servers({DIRECT: echo, **ports})


def before_server(autobahn: Autobahn) -> Mapping[str, Results]:
    """Autobahn is the backend."""
    command = GATEWAYS[GATEWAY_BEFORE_SERVER]
    log = autobahn.reports / "before_server.log"
    with autobahn.serving() as server, _running(*command, backend=server, log=log) as gateway:
        return autobahn.test_clients(server, {DIRECT: server, "gateway": gateway})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 1 if anything went worse with a gateway."""
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument("--python", default="python2.7", help="the Python 2.7 Autobahn runs on")
    parser.add_argument("--packages", type=Path, required=True, help="where its packages are")
    parser.add_argument("--reports", type=Path, required=True, help="a folder for its reports")
    parser.add_argument("--gateway", action="append", choices=GATEWAYS, help="repeatable")
    arguments = parser.parse_args(argv)
    reports = arguments.reports.resolve()
    reports.mkdir(parents=True, exist_ok=True)
    autobahn = Autobahn(arguments.python, arguments.packages.resolve(), reports)
    worse: list[str] = []
    try:
        found = before_clients(autobahn, arguments.gateway or list(GATEWAYS))
        sys.stdout.write(f"Autobahn is the client:\n{counts(found)}\n\n")
        worse += worse_cases(found, DIRECT)
        found = before_server(autobahn)
        sys.stdout.write(f"Autobahn is the backend:\n{counts(found)}\n\n")
        worse += worse_cases(found, DIRECT)
    except RunError as exc:
        sys.stderr.write(f"autobahn: {exc}\n")
        return 1
    sys.stdout.write("\n".join([*worse, f"Every case: {reports}/*/index.html", ""]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
