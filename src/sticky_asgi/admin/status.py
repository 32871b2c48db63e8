"""Whether the gateway is alive, and whether it wants to be sent visitors.

The two questions are Kubernetes' livenessProbe and readinessProbe, and what load balancers in
front check. Neither says anything about backends: a gateway whose backends are all down answers
visitors with 503, and taking it out of service as well would help nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ..error_response import default_error_response, send_error
from ..exceptions import NoRoute


class StatusEndpoints:
    """`{path}/live` and `{path}/ready`, to be asked before the routes.

    `live` is answered 200 for as long as there is a process to answer. `ready` is answered 200,
    and 503 while there is a reason that the gateway is to get no visitors: its backends are not
    known yet, or it has been told to stop. It still serves then.

    Args:
        path: Where the two are. No route below it is ever asked.
        why_not_ready: Tells why the gateway is to get no visitors, as the body of the 503; None:
            it is to get them.

    Raises:
        ValueError: A path that does not begin with a slash, or ends with one.
    """

    def __init__(self, path: str, why_not_ready: Callable[[], str | None]) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"path must begin with / and not end with it, got {path!r}")
        self.path = path
        self._why_not_ready = why_not_ready
        self._prefix = f"{path}/"

    def handles(self, scope: Scope) -> bool:
        """Whether a request is for this and not for a route."""
        path: str = scope["path"]
        return path.startswith(self._prefix) or path == self.path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            error = NoRoute("no WebSocket is opened here")
            await send_error(error, default_error_response, scope, receive, send)
        else:
            await self._response(scope)(scope, receive, send)

    def _response(self, scope: Scope) -> PlainTextResponse:
        name = scope["path"].removeprefix(self._prefix)
        if name not in ("live", "ready"):
            return PlainTextResponse("404 Not Found\n", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("405 Method Not Allowed\n", 405, {"allow": "GET, HEAD"})
        # A stored answer would be a wrong one.
        headers = {"cache-control": "no-store"}
        reason = self._why_not_ready() if name == "ready" else None
        if reason is not None:
            return PlainTextResponse(f"{reason}\n", 503, headers)
        return PlainTextResponse("ok\n", 200, headers)

    def __repr__(self) -> str:
        return f"<StatusEndpoints {self.path}>"
