"""Carts in memory: an app that works in one replica, and in several only behind a gateway.

It stands for yours in examples/kubernetes; docs/kubernetes.md runs it there. By hand, from the root
of the repository:

    pip install 'sticky-asgi[cli]'
    HOSTNAME=web-1 uvicorn examples.kubernetes.web.app:app --port 9001 &
    HOSTNAME=web-2 uvicorn examples.kubernetes.web.app:app --port 9002 &
    sticky-asgi run --backend http://127.0.0.1:9001 --backend http://127.0.0.1:9002

    curl -b jar -c jar -d shoes http://127.0.0.1:8000/
    curl -b jar -c jar http://127.0.0.1:8000/
"""

from __future__ import annotations

import os
import secrets

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route


def create_app(pod: str) -> Starlette:
    """One replica: what is in its carts, nobody else knows."""
    carts: dict[str, list[str]] = {}

    async def cart(request: Request) -> JSONResponse:
        visitor = request.cookies.get("visitor") or secrets.token_urlsafe(8)
        if request.method == "POST":
            thing = (await request.body()).decode(errors="replace")
            carts.setdefault(visitor, []).append(thing)
        response = JSONResponse({"pod": pod, "cart": carts.get(visitor, [])})
        response.set_cookie("visitor", visitor, httponly=True)
        return response

    async def healthz(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[Route("/", cart, methods=["GET", "POST"]), Route("/healthz", healthz)],
    )


#: Kubernetes names a pod's host as the pod.
app = create_app(os.environ.get("HOSTNAME", "web"))
