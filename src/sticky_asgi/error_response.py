"""What a client is told when a request fails in the gateway: a status, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from .exceptions import ClientError, GatewayError, NoBackendAvailable

ErrorResponse: TypeAlias = Callable[[GatewayError, Scope], Response]


def default_error_response(error: GatewayError, scope: Scope) -> Response:
    """The status and its name as plain text: no address, no exception text."""
    try:
        phrase = HTTPStatus(error.status_code).phrase
    except ValueError:
        phrase = "Error"
    return PlainTextResponse(f"{error.status_code} {phrase}\n", error.status_code)


def can_refuse(scope: Scope) -> bool:
    """Whether a WebSocket's server lets a refusal have a status, headers and a body of its own."""
    return "websocket.http.response" in (scope.get("extensions") or ())


async def send_error(
    error: GatewayError, make: ErrorResponse, scope: Scope, receive: Receive, send: Send
) -> int:
    """Send the response that `make` gives an error, with the headers its status asks for.

    Returns the status that was sent: `make` may have chosen another one than the error's.
    """
    if scope["type"] == "websocket" and not can_refuse(scope):
        # Closed before it was accepted: the server answers the handshake with 403.
        await send({"type": "websocket.close", "code": 1000})
        return 403
    response = make(error, scope)
    if isinstance(error, NoBackendAvailable):
        # RFC 9110 §10.2.3
        response.headers.setdefault("retry-after", str(error.retry_after))
    if isinstance(error, ClientError) and scope.get("http_version", "1.1") < "2":
        # RFC 9112 §6.3: what follows on this connection cannot be trusted to be a request.
        response.headers["connection"] = "close"
    await response(scope, receive, send)
    return response.status_code
