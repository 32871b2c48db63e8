"""The ASGI lifespan protocol around any asynchronous context manager, and inside an application.

`serve_lifespan` stands between a server and an application: the resources are open before the
application starts and until it has stopped. `run_lifespan` plays the server for an application
that has none of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .exceptions import DiscoveryError

logger = logging.getLogger("sticky_asgi.lifespan")

#: Seconds an application gets to return after its last answer.
LINGER = 1.0


async def serve_lifespan(
    resources: AbstractAsyncContextManager[Any],
    scope: Scope,
    receive: Receive,
    send: Send,
    app: ASGIApp | None = None,
) -> None:
    """Answer a server's lifespan call, with resources held around an application's lifetime.

    The start-up message is received here and replayed to the application; what the application
    says last is held back until the resources are closed. A failure on either side is said in so
    many words and then raised: an exception alone would be taken for a lack of lifespan support,
    and served anyway.

    Args:
        resources: Entered before the application starts, left after it has stopped.
        scope: The lifespan scope.
        receive: The server's receive.
        send: The server's send.
        app: The application inside, if there is one. It need not support lifespan.

    Raises:
        Exception: What has failed, after it was said.
    """
    await receive()
    stage = "startup"
    try:
        async with resources, run_lifespan(app, scope):
            await send({"type": "lifespan.startup.complete"})
            stage = "shutdown"
            await receive()
    except Exception as exc:
        if isinstance(exc, DiscoveryError):
            # It says all there is to say: where in the program it was said helps nobody.
            logger.error("lifespan %s failed: %s", stage, exc)
        else:
            logger.error("lifespan %s failed", stage, exc_info=exc)
        # What the application has said is passed on as it said it.
        said = str(exc) if isinstance(exc, LifespanFailed) else f"{type(exc).__name__}: {exc}"
        await send({"type": f"lifespan.{stage}.failed", "message": said})
        # As Starlette does: servers take no more notice of it, test clients pass it on.
        raise
    else:
        await send({"type": "lifespan.shutdown.complete"})


class LifespanFailed(RuntimeError):
    """An application said that its start-up or its shutdown has failed."""


class _AppLifespan:
    """An application's lifespan call, which runs in a task of its own."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._call(app, scope))

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._inbox.get, self._hear)
        except Exception as exc:
            # An application without lifespan raises at once; Starlette raises after having said
            # what failed. Either way the answers tell the story.
            logger.debug("lifespan call ended by %r", exc)
        finally:
            self._answers.put_nowait(None)

    async def _hear(self, message: Message) -> None:
        if message["type"].rpartition(".")[0] not in ("lifespan.startup", "lifespan.shutdown"):
            # An application that takes every call for a request has no lifespan.
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")
        await self._answers.put(message)

    async def say(self, stage: str) -> bool:
        """Send a message and wait for the answer. False: the application has no lifespan.

        Raises:
            LifespanFailed: It answered that it failed.
        """
        if self._task.done():
            return False
        self._inbox.put_nowait({"type": f"lifespan.{stage}"})
        answer = await self._answers.get()
        if answer is not None and answer["type"] == f"lifespan.{stage}.failed":
            raise LifespanFailed(answer.get("message", "") or f"application {stage} failed")
        return answer is not None

    async def end(self) -> None:
        """Wait for the call to return; an application that lingers is cancelled."""
        _, pending = await asyncio.wait({self._task}, timeout=LINGER)
        if pending:
            self._task.cancel()
            await asyncio.wait({self._task})


@asynccontextmanager
async def run_lifespan(
    app: ASGIApp | None, scope: Scope | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Start an application, and stop it at the end of the block.

    Yields the state the application has filled; each of its requests is to get a copy of it.

    Args:
        app: The application; None does nothing.
        scope: The lifespan scope to call it with. Default: one of its own.

    Raises:
        LifespanFailed: The application says so. One that has no lifespan does not fail.
    """
    if app is None:
        yield {}
        return
    if scope is None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    lifespan = _AppLifespan(app, scope)
    try:
        has_lifespan = await lifespan.say("startup")
        try:
            yield scope.get("state", {})
        finally:
            if has_lifespan:
                await lifespan.say("shutdown")
    finally:
        await lifespan.end()
