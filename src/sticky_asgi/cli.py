"""The command line: `sticky-asgi demo`, `run`, `check`, `schema` and `inspect`.

Exit codes: 0 done, 1 failed, 2 wrong usage or a wrong configuration.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn

import click
import uvicorn

from . import (
    Affinity,
    AnnotatedCookie,
    CookieSettings,
    Pool,
    Route,
    SignedCookie,
    __version__,
)
from .affinity.cookie import CookieReport
from .certificates import wrong_chain
from .config import Config, ConfigError, json_schema, load
from .listening import address_of, listening
from .serving import LOGGING, Settings, serve
from .uvicorn_http import HttpToolsProtocol

# A token of 16 characters, of which one in 64 begins with a dash, two stamps and a signature.
_DASHED_COOKIE = re.compile(r"-[\w-]{15}\.[\w-]+\.[\w-]+\.[\w-]+")


class _RunCommand(click.Command):
    """Lets `--access-log` stand alone: its value comes after `=` only, so a file may follow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = ["--access-log=text" if arg == "--access-log" else arg for arg in args]
        return super().parse_args(ctx, args)


class _InspectCommand(click.Command):
    """Takes a cookie that begins with a dash for what it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        dashed = [arg for arg in args if _DASHED_COOKIE.fullmatch(arg)]
        if dashed:
            args = [arg for arg in args if arg not in (*dashed, "--")] + ["--", *dashed]
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sticky-asgi", message="%(prog)s %(version)s")
def cli() -> None:
    """A load-balancing gateway with session affinity."""


_file = click.argument("file", type=click.Path())
_host = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
_port = click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)


@cli.command()
@_host
@_port
def demo(host: str, port: int) -> None:
    """Three stateful back ends behind a gateway, and a page that shows which one holds you."""
    from .demo import create_app

    with _listening(host, port) as sockets:
        _say(f"the demo is on {address_of(sockets[0])} (Ctrl+C ends it)")
        serve(_server(create_app(), graceful_timeout=1), sockets)


@cli.command(cls=_RunCommand)
@click.argument("file", required=False, type=click.Path())
@click.option("--backend", "backends", multiple=True, metavar="URL", help="In place of a file.")
@_host
@_port
@click.option("--uds", metavar="PATH", help="Listen on this unix socket instead.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes."
)
@click.option(
    "--access-log",
    type=click.Choice(["text", "json"]),
    metavar="[=text|json]",
    help="Write a line per request to stdout.",
)
@click.option("--ssl-certfile", metavar="PEM", help="Serve https with this certificate.")
@click.option("--ssl-keyfile", metavar="PEM", help="Its key, if it is in a file of its own.")
@click.option(
    "--keep-alive",
    default=75,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="How long a client may stay connected without a request.",
)
@click.option(
    "--shutdown-delay",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to go on serving after SIGTERM, while /ready says 503.",
)
@click.option(
    "--graceful-timeout",
    default=25,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How long running requests may take to end after SIGTERM.",
)
def run(
    file: str | None,
    backends: Sequence[str],
    host: str,
    port: int,
    uds: str | None,
    workers: int,
    access_log: Literal["text", "json"] | None,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    keep_alive: int,
    shutdown_delay: float,
    graceful_timeout: int,
) -> None:
    """Serve what a configuration FILE says, or the given backends with sticky sessions.

    SIGHUP or a changed file reloads: sessions stay, and a wrong file changes nothing.
    """
    if (file is None) == (not backends):
        raise click.UsageError("give either a configuration file or --backend URL")
    if ssl_keyfile is not None and ssl_certfile is None:
        raise click.UsageError("--ssl-keyfile needs --ssl-certfile")
    if file is not None:
        if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
            _fail(f"{file}: is not a regular file, and it has to be read more than once", 2)
        # Until the gateway listens to it, a SIGHUP must not end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = Settings(
        file=file,
        backends=backends,
        workers=workers,
        access_log=access_log,
        shutdown_delay=shutdown_delay,
    )
    try:
        config = settings.load()
    except ConfigError as exc:
        _refuse(exc)
    _check_certificate(ssl_certfile, ssl_keyfile)
    settings.export(os.environ)
    server = _server(
        "sticky_asgi.serving:create_app",
        factory=True,
        workers=workers,
        graceful_timeout=graceful_timeout,
        timeout_keep_alive=keep_alive,
        ws_max_size=_largest_message(config),
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    with _listening(host, port, uds) as sockets:
        _say(f"{_places(sockets, server)} serves {_served(config)}")
        serve(server, sockets, reloads=file is not None)


@cli.command()
@_file
def check(file: str) -> None:
    """Say whether a configuration FILE is right; exit code 2 if not."""
    try:
        config = load(file)
    except ConfigError as exc:
        _refuse(exc)
    click.echo(f"{file}: ok ({config.summary})")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(json_schema(), indent=2))


@cli.command(cls=_InspectCommand)
@click.argument("cookie")
@click.option("-c", "--config", "file", required=True, type=click.Path(), help="Configuration.")
@click.option("--pool", "pool_name", metavar="NAME", help="Ask this pool only.")
def inspect(cookie: str, file: str, pool_name: str | None) -> None:
    """Say what an affinity COOKIE means: a value, name=value, or a whole header.

    A pool that discovery finds has to be named. Exit code 1: nothing.
    """
    try:
        config = load(file)
    except ConfigError as exc:
        _refuse(exc)
    if not config.document.secrets:
        click.echo(f"{file}: there are no secrets in it, so no cookie can be read", err=True)
        sys.exit(2)
    asked = list(_cookies(config, pool_name))
    is_unsaid = pool_name is None and config.document.discovery is not None
    hint = "; one that discovery finds is asked by --pool NAME" if is_unsaid else ""
    if not asked:
        who = "no pool has" if pool_name is None else f"pool {pool_name!r} does not have"
        raise click.UsageError(f"{who} a signed cookie{hint}")
    # `name=value; Path=/` or a whole header is what people copy; a value has no "=" of its own.
    values = dict.fromkeys(part.rpartition("=")[2].strip() for part in cookie.split(";"))
    reports = [(cookie.inspect(value, pool), pool) for cookie, pool in asked for value in values]
    genuine = [(report, pool) for report, pool in reports if report.status != "invalid"]
    if not genuine:
        click.echo(f"invalid for {_list_of([pool.name for _, pool in asked])}{hint}")
        sys.exit(1)
    for report, pool in genuine:
        _print_report(report, len(config.document.secrets), knows_backends=bool(pool.backends))


def _cookies(config: Config, pool_name: str | None) -> Iterator[tuple[SignedCookie, Pool]]:
    """The signed cookies of the pools that are meant."""
    pools, finds = config.make_pools(), config.document.discovery
    asked: list[tuple[Affinity | AnnotatedCookie | None, Pool]]
    if pool_name is None:
        asked = [(pool.visitors.declared, pool) for pool in pools.values()]
    elif pool_name in pools:
        asked = [(pools[pool_name].visitors.declared, pools[pool_name])]
    elif finds is not None:
        found = finds.pool.make_affinity(config.document.secrets, is_annotated=True)
        asked = [(found, Pool(pool_name, []))]
    else:
        raise click.UsageError(f"there is no pool {pool_name!r}; there is {', '.join(pools)}")
    for affinity, pool in asked:
        # What annotations say is not known here. A cookie is signed under none of it.
        if isinstance(affinity, AnnotatedCookie):
            affinity = affinity.make(CookieSettings())
        if isinstance(affinity, SignedCookie):
            yield affinity, pool


def _print_report(report: CookieReport, secrets: int, *, knows_backends: bool) -> None:
    position = 0 if report.secret is None else report.secret + 1
    newest = ", the newest" if position == secrets else ""
    backend, status = report.backend_id or "no longer in the pool", str(report.status)
    if not knows_backends:
        backend = "known to the gateway only, which finds them while it runs"
        status = "valid, as far as the file says" if status == "lost" else status
    rows = (
        ("pool", report.pool),
        ("backend", backend),
        ("first issued", _moment(report.first_issued)),
        ("last stamped", _moment(report.last_stamped)),
        ("key", f"{position} of {secrets}{newest}"),
        ("status", status),
    )
    for title, text in rows:
        click.echo(f"{title:<13} {text}")


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return "unknown"
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{moment.isoformat()} ({seconds // size} {unit} ago)"
    return f"{moment.isoformat()} ({seconds} s ago)"


def _say(text: str) -> None:
    click.echo(f"sticky-asgi {__version__}: {text}", err=True)


def _refuse(exc: ConfigError) -> NoReturn:
    for problem in exc.problems:
        click.echo(str(problem), err=True)
    sys.exit(2)


def _fail(text: str, code: int = 1) -> NoReturn:
    click.echo(f"sticky-asgi: {text}", err=True)
    sys.exit(code)


def _list_of(names: Sequence[str]) -> str:
    return "pool " + ", ".join(names) if len(names) == 1 else "pools " + ", ".join(names)


def _places(sockets: Sequence[socket.socket], server: uvicorn.Config) -> str:
    scheme = "https" if server.is_ssl else "http"
    return ", ".join(address_of(listener, scheme=scheme) for listener in sockets)


def _served(config: Config) -> str:
    served = [
        f"{_pattern(route)} from {_described(route.pool)}"
        for route in config.routes
        if route.pool is not None
    ]
    if config.document.discovery is not None:
        served.append("what discovery finds")
    return ", ".join(served)


def _pattern(route: Route) -> str:
    """`GET,POST shop.example/cart`, with the names of headers that must be there."""
    methods = "" if route.methods is None else f"{','.join(sorted(route.methods))} "
    names = ", ".join(name.decode("latin-1") for name, _ in route.headers)
    headers = f" with {names}" if names else ""
    return f"{methods}{route.host or ''}{route.path}{headers}"


def _described(pool: Pool) -> str:
    if pool.discovery is not None:
        return f"{pool.name} (backends by discovery)"
    count = len(pool.backends)
    return f"{pool.name} ({count} backend{'' if count == 1 else 's'})"


def _server(app: Any, *, graceful_timeout: int, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpToolsProtocol,
        ws=_websocket_protocol(),
        # Takes memory and time for each WebSocket, and backends are not asked to compress either.
        ws_per_message_deflate=False,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=copy.deepcopy(LOGGING),
        timeout_graceful_shutdown=graceful_timeout,
        **options,
    )


def _websocket_protocol() -> Any:
    """Ours, if it is what uvicorn takes by itself; older versions take another, or have no such."""
    with suppress(ImportError):
        from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

        from .uvicorn_websocket import WebSocketsSansIOProtocol

        if AutoWebSocketsProtocol in WebSocketsSansIOProtocol.__bases__:
            return WebSocketsSansIOProtocol
    return "auto"


def _largest_message(config: Config) -> int | None:
    """What the server has to let through: each pool has a limit of its own."""
    found = config.document.discovery
    sections = [*config.document.pools.values(), *(() if found is None else [found.pool])]
    limits = [section.websocket.max_message for section in sections]
    return None if None in limits else max(limit for limit in limits if limit is not None)


def _check_certificate(certfile: str | None, keyfile: str | None) -> None:
    """Find out now what every worker would fail with."""
    if certfile is None:
        return
    wrong = wrong_chain(certfile, keyfile)
    if wrong is not None:
        _fail(f"{'--ssl-keyfile' if wrong.in_key else '--ssl-certfile'} {wrong.message}", 2)


@contextmanager
def _listening(host: str, port: int, uds: str | None = None) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        try:
            sockets = stack.enter_context(listening(host, port, uds))
        except OSError as exc:
            place = f"{host}:{port}" if uds is None else uds
            _fail(f"cannot listen on {place}: {exc.strerror or exc}")
        yield sockets
