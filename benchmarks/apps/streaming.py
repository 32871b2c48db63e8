"""The proxy that everybody writes first: StreamingResponse over `client.send(stream=True)`."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


def make_proxy(client: Any) -> Starlette:
    """A proxy on a client of httpx or httpx2, whose base URL is the origin."""

    async def forward(request: Request) -> StreamingResponse:
        upstream_request = client.build_request(
            request.method,
            request.url.path,
            headers=request.headers.raw,
            content=request.stream() if request.method == "POST" else None,
        )
        upstream = await client.send(upstream_request, stream=True)
        return StreamingResponse(
            upstream.aiter_raw(),
            status_code=upstream.status_code,
            headers=upstream.headers,
            background=BackgroundTask(upstream.aclose),
        )

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
