"""The ASGI applications that are measured: each module has one, named `app`, for uvicorn to serve.

What they have to know is in the environment.
"""

from __future__ import annotations

import os

#: The origins' addresses, separated by spaces.
ORIGINS = "BENCH_ORIGINS"
#: How many backends the gateway is to have, and how it balances them.
SIZE = "BENCH_SIZE"
POLICY = "BENCH_POLICY"
#: Seconds that the gateway keeps an idle connection.
KEEP_ALIVE = "BENCH_KEEP_ALIVE"


def origin_urls() -> list[str]:
    """The origins' addresses."""
    return os.environ[ORIGINS].split()
