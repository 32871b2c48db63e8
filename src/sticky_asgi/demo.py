"""The demo: three stateful back ends in process, a gateway before them, and a page to watch it.

The back ends keep what they know of a visitor in their own memory, as Streamlit or a notebook
does. So a visitor who is sent to another one is a stranger there, and that can be seen.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import Backend, GatewayMiddleware, Intent, Pool, SignedCookie

NAMES = ("amber", "teal", "violet")
#: The back ends' own cookie: who the visitor is. Where the visitor belongs is the gateway's.
SESSION_COOKIE = "demo_session"
CONTROL = "/-/demo"
#: Visitors a back end remembers, so that a load test does not fill the memory.
MAX_VISITORS = 10_000


class Replica:
    """One back end: an application that counts each visitor's requests in its own memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self.visits: dict[str, int] = {}
        self.app: ASGIApp = Starlette(routes=[Route("/", self.answer)])

    async def answer(self, request: Request) -> Response:
        """Count the request, and answer with the page, with JSON or with a line of text."""
        visitor = request.cookies.get(SESSION_COOKIE) or secrets.token_urlsafe(12)
        if visitor not in self.visits and len(self.visits) >= MAX_VISITORS:
            del self.visits[next(iter(self.visits))]
        self.requests += 1
        count = self.visits[visitor] = self.visits.get(visitor, 0) + 1
        response = self._response(request, count)
        if SESSION_COOKIE not in request.cookies:
            response.set_cookie(SESSION_COOKIE, visitor, httponly=True, samesite="lax")
        return response

    def _response(self, request: Request, count: int) -> Response:
        accept = request.headers.get("accept", "")
        content = {
            "backend": self.name,
            "count": count,
            "affinity": request.headers.get("sticky-session", "new"),
        }
        headers = {"cache-control": "no-store"}
        if "text/html" in accept:
            return HTMLResponse(render(content), headers=headers)
        if "application/json" in accept:
            return JSONResponse(content, headers=headers)
        return PlainTextResponse(
            f"{self.name} answered; it has had {count} request{'' if count == 1 else 's'} "
            "from you\n",
            headers=headers,
        )

    def forget_all(self) -> None:
        """What a process loses when it ends."""
        self.requests = 0
        self.visits.clear()


def render(content: Mapping[str, Any]) -> str:
    """The page, as the back end that serves it."""
    page = (files(__package__) / "demo.html").read_text(encoding="utf-8")
    # "<" would end the script that the data stands in.
    data = json.dumps({**content, "backends": NAMES, "control": CONTROL}).replace("<", "\\u003c")
    return page.replace("{{backend}}", escape(content["backend"])).replace("{{data}}", data)


class Controls:
    """What the page's buttons do: endpoints of the application that the gateway is put before."""

    def __init__(self, pool: Pool, replicas: Mapping[str, Replica], affinity: SignedCookie) -> None:
        self.pool = pool
        self.replicas = replicas
        self.affinity = affinity

    async def state(self, request: Request) -> Response:
        """What each back end knows, of this visitor and in all."""
        visitor = request.cookies.get(SESSION_COOKIE, "")
        backends = [
            {
                "name": name,
                "running": self.pool[name].intent is Intent.ACTIVE,
                "yours": replica.visits.get(visitor, 0),
                "requests": replica.requests,
                "visitors": len(replica.visits),
            }
            for name, replica in self.replicas.items()
        ]
        return JSONResponse({"backends": backends}, headers={"cache-control": "no-store"})

    async def forget(self, request: Request) -> Response:
        """Take the affinity cookie back, which no script can."""
        response = Response(status_code=204)
        response.delete_cookie(self.affinity.cookie_name(self.pool), httponly=True, samesite="lax")
        return response

    async def stop(self, request: Request) -> Response:
        """Stop a back end, with all it remembers."""
        return self._switch(request, Intent.DOWN)

    async def start(self, request: Request) -> Response:
        """Start it again."""
        return self._switch(request, Intent.ACTIVE)

    def _switch(self, request: Request, intent: Intent) -> Response:
        replica = self.replicas.get(request.path_params["name"])
        if replica is None:
            return PlainTextResponse("no such back end\n", 404)
        self.pool.set_intent(replica.name, intent)
        if intent is Intent.DOWN:
            replica.forget_all()
        return Response(status_code=204)


def create_app() -> ASGIApp:
    """The whole demo as one application: also an example of how little a gateway takes."""
    replicas = {name: Replica(name) for name in NAMES}
    affinity = SignedCookie(secrets.token_hex(32), announce=True)
    pool = Pool(
        "demo",
        [Backend(app=replica.app, id=name) for name, replica in replicas.items()],
        affinity=affinity,
    )
    controls = Controls(pool, replicas, affinity)
    return Starlette(
        routes=[
            Route(f"{CONTROL}/state", controls.state),
            Route(f"{CONTROL}/forget", controls.forget, methods=["POST"]),
            Route(f"{CONTROL}/{{name}}/stop", controls.stop, methods=["POST"]),
            Route(f"{CONTROL}/{{name}}/start", controls.start, methods=["POST"]),
        ],
        middleware=[Middleware(GatewayMiddleware, pools={"/": pool, CONTROL: None})],
    )
