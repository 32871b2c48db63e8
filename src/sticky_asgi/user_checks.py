"""Checks of the user's own: coroutines that may do anything, even go on when they are cancelled.

Each has a task of its own. What it comes to is told in time; when it ends is its own affair.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from .backend import Backend
from .health import CheckResult, HealthCheck

logger = logging.getLogger("sticky_asgi")

#: Seconds that a check gets to end when it is cancelled.
GRACE = 1.0


class UserChecks:
    """Makes the checks of one pool that are coroutines of the user's, in one event loop."""

    def __init__(self) -> None:
        #: Those that have not ended yet, in time or not, by backend.
        self._tasks: dict[str, asyncio.Task[bool]] = {}

    @property
    def tasks(self) -> tuple[asyncio.Task[bool], ...]:
        """Those that have not ended yet. Their names tell which they are."""
        return tuple(self._tasks.values())

    async def make(self, backend: Backend, check: HealthCheck) -> CheckResult:
        """Check a backend. While the last check of it goes on there is no other: it has failed.

        Raises whatever the user's coroutine raises.
        """
        if backend.id in self._tasks:
            return CheckResult(False, "the check before goes on")
        task = self._start(backend, check)
        if await _ends(task, check.timeout):
            answer = task.result()
            return CheckResult(answer, "passed" if answer else "not passed", drains=None)
        task.cancel()
        if not await _ends(task, GRACE):
            logger.error("%s goes on though it was cancelled; until it ends the backend counts as "
                         "failed and is not checked", task.get_name())  # fmt: skip
        return CheckResult(False, f"not within {check.timeout:g} seconds")

    def _start(self, backend: Backend, check: HealthCheck) -> asyncio.Task[bool]:
        name = getattr(check.check, "__qualname__", None) or repr(check.check)
        task = asyncio.create_task(
            _ask(backend, check), name=f"the health check {name} of backend {backend.id}"
        )
        self._tasks[backend.id] = task
        task.add_done_callback(partial(self._ended, backend.id))
        return task

    def _ended(self, backend_id: str, task: asyncio.Task[bool]) -> None:
        del self._tasks[backend_id]
        if not task.cancelled():
            task.exception()  # Nobody else asks for one that comes too late.

    def __repr__(self) -> str:
        return f"<UserChecks [{len(self._tasks)} under way]>"


async def _ask(backend: Backend, check: HealthCheck) -> bool:
    assert check.check is not None
    try:
        answer = await check.check(backend)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("something that a health check has waited for was cancelled") from exc
    if answer is not True and answer is not False:
        raise TypeError(f"a health check must return True or False, got {answer!r}")
    return answer


async def _ends(task: asyncio.Task[bool], seconds: float) -> bool:
    """Whether a task ends in time."""
    await asyncio.wait((task,), timeout=seconds)
    return task.done()
