"""A gateway as a service: uvicorn around it, and its configuration file followed while it runs.

Each worker process builds its own gateway and follows the file by itself: nothing that belongs to
an event loop is made before there is one, and a reload replaces no process.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import socket
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.supervisors import Multiprocess

from .access_log import AccessLog
from .admin import StatusEndpoints
from .config import Config, ConfigError, load, quick
from .events import Reloaded, tell
from .file_watch import LOOK_EVERY, watch_file
from .lifespan import serve_lifespan
from .stopping import Stopping

logger = logging.getLogger("sticky_asgi.serving")

#: How the settings reach the workers, which share nothing else with their parent.
_VARIABLE = "STICKY_ASGI_SERVICE"

#: What a worker of uvicorn exits with that could not start.
_STARTUP_FAILURE = 3

#: New objects per collection of the youngest, and such collections per one of the older.
_GC_THRESHOLDS = (10_000, 10, 10)


class ClientsFaults(logging.Filter):
    """Drops what uvicorn logs as an error whenever a client of a WebSocket likes.

    The first is a client's fault, with a traceback for each message. The second is said of every
    handshake that is refused with a response, or whose client has left.
    """

    _MESSAGES = (
        "Invalid UTF-8 sequence received from client.",
        "ASGI callable returned without completing handshake.",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in self._MESSAGES


LOGGING: dict[str, Any] = {
    "version": 1,
    "filters": {"clients_faults": {"()": ClientsFaults}},
    "disable_existing_loggers": False,
    "formatters": {
        "log": {"format": "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"},
        "access": {"format": "%(message)s"},
    },
    "handlers": {
        "log": {
            "class": "logging.StreamHandler",
            "formatter": "log",
            "filters": ["clients_faults"],
        },
        "access": {
            "class": "logging.StreamHandler",
            "formatter": "access",
            "stream": "ext://sys.stdout",
        },
    },
    "loggers": {
        "sticky_asgi": {"handlers": ["log"], "level": "INFO", "propagate": False},
        "sticky_asgi.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["log"], "level": "WARNING", "propagate": False},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker must know to build its gateway.

    Args:
        file: The configuration file, or None.
        backends: URLs of backends, in place of a file.
        workers: How many processes serve.
        access_log: The access log's form, or None for no log.
        shutdown_delay: Seconds to go on serving after SIGTERM, while the gateway says that it is
            not ready.
    """

    file: str | None = None
    backends: Sequence[str] = ()
    workers: int = 1
    access_log: Literal["text", "json"] | None = None
    shutdown_delay: float = 0

    def load(self) -> Config:
        """Read and check the configuration. Raises ConfigError."""
        if self.file is None:
            return quick(self.backends, workers=self.workers)
        return load(self.file, workers=self.workers)

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Leave the settings to processes to come."""
        environ[_VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def inherit(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that were left to this process."""
        return cls(**json.loads(environ[_VARIABLE]))


def create_app() -> ASGIApp:
    """The application of one worker; uvicorn calls it by name."""
    settings = Settings.inherit(os.environ)
    try:
        return Service(settings, on_start=spare_collector)
    except ConfigError as exc:
        problems = "\n  ".join(map(str, exc.problems))
        logger.error("not started:\n  %s", problems)
        # Whoever starts it again, does so at once.
        time.sleep(1 if settings.workers == 1 else LOOK_EVERY)
        raise SystemExit(1) from None


def spare_collector() -> None:
    """Have the garbage collector look more rarely, and not at what was there from the start.

    Among that are the backends that discovery has found: to look at thousands takes it 40 ms.

    What requests leave behind is freed without it, but for what little goes in circles. With many
    of them at a time and its usual thresholds it looks at every object of theirs again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class Service:
    """A gateway that follows its configuration file.

    The file is read again when it or its folder changes and on SIGHUP. One that is wrong changes
    nothing: the last good one stays in force, and what is wrong goes to the log.

    Args:
        settings: What to serve.
        on_start: Called when the gateway has started, before it serves anybody.

    Raises:
        ConfigError: The configuration is wrong at the very start.
    """

    def __init__(self, settings: Settings, *, on_start: Callable[[], object] | None = None) -> None:
        self.settings = settings
        self._on_start = on_start
        self._content = self._read()
        self.config = settings.load()
        if self.config.needs_secret:
            logger.warning(
                "no secrets: one was made up, so sessions will not outlive this process, nor be "
                "known to other gateways"
            )
        access_log = settings.access_log
        listeners = () if access_log is None else (AccessLog(access_log),)
        self.gateway = self.config.build(listeners=listeners)
        self.stopping = Stopping(settings.shutdown_delay, self.gateway)
        self._status = self._make_status()

    def _make_status(self) -> StatusEndpoints | None:
        admin = self.config.document.admin
        if admin is None:
            return None
        return StatusEndpoints(admin.path, self._why_not_ready)

    def _why_not_ready(self) -> str | None:
        if self.stopping.has_begun:
            return "stopping"
        return None if self.gateway.is_ready else "waiting for backends"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            with self.stopping.cancelled_quietly():
                await serve_lifespan(self._running(), scope, receive, send)
        elif self._status is not None and self._status.handles(scope):
            await self._status(scope, receive, send)
        else:
            await self.gateway(scope, receive, send)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with self.stopping.on_signals(loop):
            async with self.gateway:
                if self._on_start is not None:
                    self._on_start()
                self.stopping.has_started = True
                logger.info("ready: %s", self.config.summary)
                if self.settings.file is None:
                    _release_hangups()
                    yield
                else:
                    async with self._following(Path(self.settings.file), loop):
                        yield

    @asynccontextmanager
    async def _following(self, file: Path, loop: asyncio.AbstractEventLoop) -> AsyncIterator[None]:
        """Reload on SIGHUP and when the file changes."""
        # Only a main thread gets signals; elsewhere the file is watched all the same.
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        _release_hangups()
        watcher = asyncio.create_task(self._follow(file))
        try:
            yield
        finally:
            with suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(signal.SIGHUP)
            watcher.cancel()
            await asyncio.wait([watcher])
            if not watcher.cancelled():
                watcher.result()

    def reload(self) -> None:
        """Read the file again and put it in force, if it is right."""
        self._content = self._read()
        try:
            config = self.settings.load()
            config.apply(self.gateway, self.config)
        except ConfigError as exc:
            problems = "\n  ".join(map(str, exc.problems))
            logger.error("not reloaded, what was in force stays so:\n  %s", problems)
            self._tell_of_reload(exc)
        except Exception as exc:
            logger.exception("not reloaded, what was in force stays so")
            self._tell_of_reload(exc)
        else:
            self.config = config
            self._status = self._make_status()
            logger.info("reloaded %s: %s", config.name, config.summary)
            self._tell_of_reload(None)

    def _tell_of_reload(self, error: Exception | None) -> None:
        tell(self.gateway.listeners.of_events, Reloaded(name=self.config.name, error=error))

    async def _follow(self, file: Path) -> None:
        async for _ in watch_file(file):
            self._reload_if_changed()

    def _reload_if_changed(self) -> None:
        content = self._read()
        # Between the two steps of a replacement there may be no file for a moment.
        if content is not None and content != self._content:
            self.reload()

    def _read(self) -> bytes | None:
        if self.settings.file is None:
            return None
        try:
            return Path(self.settings.file).read_bytes()
        except OSError:
            return None


@contextmanager
def _hangups_held() -> Iterator[None]:
    """Processes that are started within keep SIGHUP for when they can handle it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _release_hangups() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class _Workers(Multiprocess):
    """uvicorn's worker processes, which reload in place: no restart, hence no request cut off."""

    #: Whether there is a file to read again; without one, SIGHUP ends the processes.
    reloads = True

    def init_processes(self) -> None:
        with _hangups_held():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        before = list(self.processes)
        with _hangups_held():
            super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                logger.error("worker %s died, starting another", old.pid)

    def handle_ttin(self) -> None:
        with _hangups_held():
            super().handle_ttin()

    def join_all(self) -> None:
        """Wait for the workers to end. They hear of signals that come meanwhile, too."""
        for process in self.processes:
            while process.process.is_alive():
                process.process.join(0.2)
                if self.signal_queue:
                    self.signal_queue.clear()
                    self.terminate_all()

    def handle_hup(self) -> None:
        if not self.reloads:
            self.should_exit.set()
            return
        for process in self.processes:
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)


def serve(config: uvicorn.Config, sockets: list[socket], *, reloads: bool = False) -> None:
    """Serve on these sockets until a signal ends it; what runs is finished first.

    Args:
        config: How to serve.
        sockets: Where to accept from.
        reloads: Whether SIGHUP reloads the workers, in place of ending them.

    Raises:
        SystemExit: With 0 after a signal, with 1 if the application failed to start.
    """

    server = uvicorn.Server(config)

    def end(number: int, frame: object) -> None:
        # uvicorn raises the signal once more when it is done; that is no failure.
        if not server.started:
            raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if config.workers == 1:
        server.run(sockets=sockets)
        raise SystemExit(0 if server.started else 1)
    # Older versions of uvicorn want to be told what the processes run.
    options: dict[str, Any] = {"sockets": sockets}
    if "target" in inspect.signature(Multiprocess).parameters:
        options["target"] = server.run
    workers = _Workers(config, **options)
    workers.reloads = reloads
    workers.run()
    has_failed = any(process.process.exitcode == _STARTUP_FAILURE for process in workers.processes)
    raise SystemExit(1 if has_failed else 0)
