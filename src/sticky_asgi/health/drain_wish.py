"""How a backend says that it wants no new sessions."""

from __future__ import annotations

from ..request import RawHeaders

#: The response header by which a backend drains itself.
DRAIN_HEADER = b"sticky-drain"


def drain_wish(headers: RawHeaders) -> bool | None:
    """What a response says of its backend: `1`, no new sessions; `0`, new ones again.

    Returns None where it says neither.
    """
    return take_drain_wish(headers)[0]


def take_drain_wish(headers: RawHeaders) -> tuple[bool | None, RawHeaders]:
    """The same, and the header without it: a word to the gateway concerns no visitor.

    A header that says nothing of it comes back as it is, not as a copy.
    """
    for name, value in headers:
        if name == DRAIN_HEADER:
            rest = [field for field in headers if field[0] != DRAIN_HEADER]
            return {b"1": True, b"0": False}.get(value.strip()), rest
    return None, headers
