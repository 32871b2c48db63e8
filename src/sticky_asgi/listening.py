"""Sockets that a server accepts from, opened before it starts.

Whoever reads the start-up line can connect, and a port that is taken is found out in the process
that was called, not in one of its workers.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

BACKLOG = 2048

# Of the addresses of a name, as `localhost` has two, those the system cannot use are left out.
_UNUSABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def listening(
    host: str = "127.0.0.1", port: int = 8000, uds: str | None = None
) -> Iterator[list[socket.socket]]:
    """Listen on every address of a host name, or on a unix socket, until the block is left.

    Args:
        host: Name or address.
        port: TCP port; 0 takes a free one, on the first address only.
        uds: Path of a unix socket instead. A stale one is replaced; it is removed at the end.

    Raises:
        OSError: It cannot be done; `strerror` says why.
    """
    sockets = [_open_unix(uds)] if uds is not None else _open(host, port)
    ours = None if uds is None else os.stat(uds)
    try:
        yield sockets
    finally:
        for listener in sockets:
            listener.close()
        if uds is not None and ours is not None:
            with suppress(FileNotFoundError):
                # Another process may have put its own there since.
                if os.path.samestat(ours, os.stat(uds)):
                    os.unlink(uds)


def address_of(listener: socket.socket, *, scheme: str = "http") -> str:
    """`http://127.0.0.1:8000` or `unix:/run/gateway.sock`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}"


def _open(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # an empty label, or one of more than 63 characters
        raise OSError(errno.EINVAL, "this is no host name") from None
    sockets: list[socket.socket] = []
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
        if sockets and not port:
            break  # a port that is free on one address may be taken on the other
        try:
            sockets.append(_open_tcp(family, address))
        except OSError as exc:
            if exc.errno not in _UNUSABLE:
                for listener in sockets:
                    listener.close()
                raise
            failure = exc
    if not sockets:
        raise failure
    return sockets


def _open_tcp(family: int, address: tuple[Any, ...]) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it, a client
    # may get what follows a first piece 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _open_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        listener.bind(path)
        # As uvicorn does: who may connect is for the folder's permissions to say.
        os.chmod(path, 0o666)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
