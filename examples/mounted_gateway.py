"""A gateway mounted below a path of another application.

Run it:

    python examples/mounted_gateway.py

http://127.0.0.1:8000/ is the application's own page; everything below
http://127.0.0.1:8000/tools/ goes to one of two replicas, which see the path without `/tools`.

A mounted application never hears of start-up and shutdown, so the application enters the gateway
in its own lifespan. That starts the replicas' lifespans too: each says how often it was started.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from sticky_asgi import Backend, Gateway, Pool, SignedCookie


def make_replica(name: str) -> Starlette:
    """A back end that needs its lifespan: it opens something before the first request."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.starts = getattr(app.state, "starts", 0) + 1
        yield

    async def show(request: Request) -> JSONResponse:
        starts = getattr(request.app.state, "starts", 0)
        return JSONResponse({"replica": name, "path": request.url.path, "starts": starts})

    return Starlette(routes=[Route("/{path:path}", show)], lifespan=lifespan)


tools = Pool(
    "tools",
    [Backend(app=make_replica(name), id=name) for name in ("a", "b")],
    affinity=SignedCookie(os.environ.get("STICKY_SECRET", "a secret for this example only")),
)
gateway = Gateway({"/": tools})


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with gateway:
        yield


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("The tools are at /tools/\n")


app = Starlette(
    routes=[Route("/", home), Mount("/tools", gateway)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=8000, server_header=False, date_header=False, proxy_headers=False)
