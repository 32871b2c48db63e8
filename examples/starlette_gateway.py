"""A Starlette application with three sticky replicas behind it.

Run it:

    python examples/starlette_gateway.py

Open http://127.0.0.1:8000/ and reload: the same replica answers each time and counts your visits.
Open it in a private window: you are somebody else, get another replica, and keep that one.
http://127.0.0.1:8000/about is answered by the application itself.

The replicas are in this process, so that nothing else has to be started. In earnest their place
is taken by addresses: `Pool("shop", ["http://10.0.0.11:8000", "http://10.0.0.12:8000"], ...)`.
"""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sticky_asgi import Backend, GatewayMiddleware, Pool, SignedCookie


def make_replica(name: str) -> Starlette:
    """A stateful back end: its visit counter lives in its own memory and nowhere else."""
    visits = 0

    async def visit(request: Request) -> PlainTextResponse:
        nonlocal visits
        visits += 1
        return PlainTextResponse(f"replica {name}, visit {visits}\n")

    return Starlette(routes=[Route("/{path:path}", visit)])


# Whoever knows the secret can make cookies: a real one comes from the environment.
SECRET = os.environ.get("STICKY_SECRET", "a secret for this example only")

shop = Pool(
    "shop",
    [Backend(app=make_replica(name), id=name) for name in ("a", "b", "c")],
    affinity=SignedCookie(SECRET),
)


async def about(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"the application in front of {shop!r}\n")


app = Starlette(
    routes=[Route("/about", about)],
    # The longest path wins; None leaves a path to the routes above.
    middleware=[Middleware(GatewayMiddleware, pools={"/": shop, "/about": None})],
)

if __name__ == "__main__":
    uvicorn.run(app, port=8000, server_header=False, date_header=False, proxy_headers=False)
