"""How large a WebSocket message may be, and how long a silent peer is believed to be there."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import is_amount, is_int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketOptions:
    """What a pool allows a WebSocket, on the gateway→backend leg.

    A backend in process needs no pings and may send messages of any size. For it `max_message` is
    what the client may send, and `close_timeout` the time that the application has to return.

    Args:
        max_message: Bytes a message may have, fragments joined. Default 16 MiB, uvicorn's
            `ws_max_size`, which holds for the client's leg as well: keep the two alike. The one who
            sends more is told 1009 (RFC 6455 §7.4.1); a backend whose client did is closed with
            1009, a client whose backend did with 1011. None: no limit.
        ping_interval: Seconds without a byte from the backend after which it gets a ping. Default
            20. None: never; a backend whose host has gone is then only noticed by what is sent to
            it.
        ping_timeout: Seconds without a byte after a ping until the backend counts as gone. Default
            20; the client's WebSocket is then closed with 1011. None: for ever.
        close_timeout: Seconds a backend has to answer a close, and then to close the connection.
            Default 10; then the connection is dropped.

    Raises:
        ValueError: A value that is not a positive, finite number, or not an integer for
            `max_message`.
    """

    max_message: int | None = 16 * 1024 * 1024
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    close_timeout: float = 10.0

    def __post_init__(self) -> None:
        size = self.max_message
        if size is not None and not (is_int(size) and size > 0):
            raise ValueError(f"max_message must be a positive integer or None, got {size!r}")
        for name in ("ping_interval", "ping_timeout"):
            value = getattr(self, name)
            if value is not None and not (is_amount(value) and value > 0):
                raise ValueError(
                    f"{name} must be a positive number of seconds or None, got {value!r}"
                )
        timeout = self.close_timeout
        if not (is_amount(timeout) and timeout > 0):
            raise ValueError(f"close_timeout must be a positive number of seconds, got {timeout!r}")
