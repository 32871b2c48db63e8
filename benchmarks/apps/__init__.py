"""The ASGI applications that are measured: each module has one, named `app`, for uvicorn to serve.

What they have to know is in the environment.
"""

from __future__ import annotations

import os

#: The origins' addresses, separated by spaces.
ORIGINS = "BENCH_ORIGINS"
#: The address of the API server.
API = "BENCH_API"

#: Where the gateway that follows a Service shows its notes. Whoever reads them turns the page.
NOTES = "/notes"


def origin_urls() -> list[str]:
    """The origins' addresses."""
    return os.environ[ORIGINS].split()
