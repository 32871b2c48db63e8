"""The gateway→backend leg. The only package that knows httpx, httptools and websockets."""

from __future__ import annotations

from .client import (
    RequestBody,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    header_lines,
)
from .clients import Clients, check_transport
from .websocket import UpstreamWebSocket, WebSocketEnded

__all__ = [
    "Clients",
    "RequestBody",
    "UpstreamClient",
    "UpstreamRequest",
    "UpstreamResponse",
    "UpstreamWebSocket",
    "WebSocketEnded",
    "check_transport",
    "header_lines",
]
