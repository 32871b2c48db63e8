"""The waits for what a pool gives in turn: a backend that is free, and room for a repeat.

How long to wait, and what a client is told who has waited in vain, is for `call.py` to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from .affinity import Resolution
from .lease import Lease
from .pool import Pool
from .request import RequestInfo

#: Seconds between two looks of those who wait for a backend.
LOOK_EVERY = 0.5


async def wait_for_backend(
    pool: Pool,
    request: RequestInfo,
    resolution: Resolution,
    exclude: Collection[str],
    patience: float,
) -> Lease | None:
    """Wait in a pool's queue, for so many seconds at most. Raises what `Pool.pick` does.

    Returns:
        The backend; None: nobody was free in time.
    """
    loop = asyncio.get_running_loop()
    served = asyncio.Event()
    waiter = pool.enqueue(
        request,
        # Whoever makes room may run in another thread's loop.
        lambda: loop.call_soon_threadsafe(served.set),
        resolution=resolution,
        exclude=exclude,
    )
    try:
        async with asyncio.timeout(patience):
            while not served.is_set():
                # Not wait_for(): that of Python 3.11 may swallow that the client has left.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await served.wait()
                # If nobody else comes, nobody else notices that a backend is back.
                pool.advance()
    except TimeoutError:
        pool.forget(waiter)
        return None
    except BaseException:
        pool.forget(waiter)
        raise
    return waiter.outcome()


async def wait_for_repeat(pool: Pool, patience: float) -> bool:
    """Wait until a pool's budget has room for a repeat, for so many seconds at most.

    Returns:
        Whether it has: then it counts, and `RetryBudget.finish` must follow.
    """
    loop = asyncio.get_running_loop()
    turn = asyncio.Event()
    waiter = pool.retry_budget.join(lambda: loop.call_soon_threadsafe(turn.set))
    try:
        async with asyncio.timeout(patience):
            await turn.wait()
    except TimeoutError:
        pool.retry_budget.leave(waiter, pool.in_flight)
        return False
    except BaseException:
        pool.retry_budget.leave(waiter, pool.in_flight)
        raise
    return True
