"""The access log: one line for each request that was routed to a pool.

Nothing a visitor sends can end a line or begin a field: what is not plain is escaped.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

from .events import RequestFinished

_PLAIN = re.compile(r"[!#-\[\]-~]+")
_NOT_PLAIN = re.compile(r"[^ !#-\[\]-~]")


class AccessLog:
    """A listener that writes to the logger `sticky_asgi.access`, at level INFO.

    Args:
        form: `"text"` (default): `127.0.0.1 "GET /x" 200 pool=shop backend=b affinity=kept
            attempts=1 ttfb=1.2ms total=1.5ms`, with `close=1000` if it was a WebSocket; or
            `"json"`: an object per line.
        logger: Where to write instead.

    Raises:
        ValueError: An unknown form.
    """

    def __init__(
        self, form: Literal["text", "json"] = "text", *, logger: logging.Logger | None = None
    ) -> None:
        if form not in ("text", "json"):
            raise ValueError(f"form must be 'text' or 'json', got {form!r}")
        self._format = {"text": as_text, "json": as_json}[form]
        self._logger = logging.getLogger("sticky_asgi.access") if logger is None else logger

    def on_request(self, event: RequestFinished) -> None:
        """Write the line."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info("%s", self._format(event))


def as_text(event: RequestFinished) -> str:
    """One line of text. What is not known is `-`."""
    affinity = None if event.affinity is None else event.affinity.value
    line = (
        f'{_word(event.client)} "{_escaped(event.method)} {_escaped(event.path)}" '
        f"{'-' if event.status is None else event.status} pool={_word(event.pool)} "
        f"backend={_word(event.backend)} affinity={affinity or '-'} attempts={event.attempts} "
        f"ttfb={_milliseconds(event.time_to_first_byte)} total={_milliseconds(event.duration)}"
    )
    if event.close_code is not None:
        line += f" close={event.close_code}"
    return line if event.error is None else f"{line} error={type(event.error).__name__}"


def as_json(event: RequestFinished) -> str:
    """One line of JSON, in ASCII; times in milliseconds."""
    first_byte = event.time_to_first_byte
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": event.client,
            "method": event.method,
            "path": event.path,
            "status": event.status,
            "pool": event.pool,
            "backend": event.backend,
            "affinity": None if event.affinity is None else event.affinity.value,
            "attempts": event.attempts,
            "ttfb_ms": None if first_byte is None else round(first_byte * 1000, 3),
            "total_ms": round(event.duration * 1000, 3),
            "close_code": event.close_code,
            # Its text may hold addresses that are in another log already.
            "error": None if event.error is None else type(event.error).__name__,
        },
        separators=(",", ":"),
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def _word(value: str | None) -> str:
    """A value without spaces, or in quotes."""
    if value is None:
        return "-"
    return value if _PLAIN.fullmatch(value) else f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    """Quotes, backslashes, controls and everything beyond ASCII as `\\xNN` or `\\uNNNN`."""
    return _NOT_PLAIN.sub(_escape, value)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in '"\\':
        return "\\" + match[0]
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
