"""The gateway→backend leg. The only package that knows httpx and httptools."""

from __future__ import annotations

from .client import (
    RequestBody,
    UpstreamClient,
    UpstreamRequest,
    UpstreamResponse,
    header_lines,
)
from .clients import Clients, check_transport

__all__ = [
    "Clients",
    "RequestBody",
    "UpstreamClient",
    "UpstreamRequest",
    "UpstreamResponse",
    "check_transport",
    "header_lines",
]
