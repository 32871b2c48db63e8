"""The fake on a socket: uvicorn in a thread of its own, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from .watch import ConnectionCut

if TYPE_CHECKING:
    import uvicorn

#: Seconds to wait for the server to be there, or to be gone.
_PATIENCE = 10.0


class _CutsAreMeant(logging.Filter):
    """Drops what uvicorn logs when the fake breaks a connection off on request."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, ConnectionCut)


class RunningKubernetes:
    """The fake while it is served; made by `FakeKubernetes.running()`.

    Attributes:
        port: Where it listens on 127.0.0.1. It stays the same over `stop` and `start`.
        url: Its address.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int,
        certfile: str | os.PathLike[str] | None,
        keyfile: str | os.PathLike[str] | None,
        hang_up: Callable[[bool], None],
    ) -> None:
        self._app = app
        self._certfile = certfile
        self._keyfile = keyfile
        self._hang_up = hang_up
        self._filter = _CutsAreMeant()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.port = port

    @property
    def url(self) -> str:
        scheme = "http" if self._certfile is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, if it does not yet.

        Raises:
            OSError: The port is taken, or a file cannot be read.
            ModuleNotFoundError: There is no uvicorn; the message says what installs it.
            RuntimeError: The server did not start; the log says why.
        """
        if self._thread is not None:
            return
        server = _server(self._app, self._certfile, self._keyfile)
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(listener.getsockname()[1])
        logging.getLogger("uvicorn.error").addFilter(self._filter)
        self._server = server
        ready = threading.Event()
        self._thread = threading.Thread(
            target=_run, args=(server, listener, ready), name=f"fake Kubernetes {self.url}"
        )
        self._thread.start()
        ready.wait(_PATIENCE)
        if not server.started:
            self.stop()
            raise RuntimeError(f"the fake did not start on port {self.port}")

    def stop(self) -> None:
        """Die: connections that are in use are cut off, new ones refused. What is held stays."""
        if self._thread is None or self._server is None:
            return
        self._hang_up(True)
        self._server.should_exit = True
        self._thread.join(_PATIENCE)
        logging.getLogger("uvicorn.error").removeFilter(self._filter)
        if self._thread.is_alive():
            raise RuntimeError(f"the fake on port {self.port} did not stop")
        self._hang_up(False)
        self._server = self._thread = None

    def __repr__(self) -> str:
        return f"<RunningKubernetes {self.url}{'' if self._thread else ', stopped'}>"


def _server(
    app: ASGIApp,
    certfile: str | os.PathLike[str] | None,
    keyfile: str | os.PathLike[str] | None,
) -> uvicorn.Server:
    try:
        import uvicorn
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "serving the fake takes uvicorn: pip install 'sticky-asgi[cli]'", name=exc.name
        ) from exc
    config = uvicorn.Config(
        app,
        ssl_certfile=certfile,
        ssl_keyfile=None if keyfile is None else os.fspath(keyfile),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    # Here, where whoever asked for it hears of a file that cannot be read.
    config.load()
    return uvicorn.Server(config)


def _run(server: uvicorn.Server, listener: socket.socket, ready: threading.Event) -> None:
    async def serve() -> None:
        watching = asyncio.create_task(_tell_when_started(server, ready))
        try:
            await server.serve(sockets=[listener])
        finally:
            watching.cancel()

    try:
        # Not Server.run(): old versions of uvicorn set a process-wide loop policy there.
        asyncio.run(serve())
    finally:
        listener.close()
        ready.set()


async def _tell_when_started(server: uvicorn.Server, ready: threading.Event) -> None:
    while not server.started:
        await asyncio.sleep(0.001)
    ready.set()
