"""Where a Service of the type ExternalName may lead.

Whoever may edit such a Service could have the gateway talk to what listens on the gateway's own
machine only, or to the cloud's metadata service: both are refused, as ingress-nginx does. That is
a guard by the name as it stands. It does not look the name up: what a name of the DNS leads to may
change at any moment.
"""

from __future__ import annotations

import ipaddress
import re
import socket

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*", re.IGNORECASE)
_LOCAL = ("localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback")


def check_external_name(name: str) -> str:
    """The name as a URL takes it.

    Raises:
        ValueError: It is none, or it leads to this machine or to a link-local address.
    """
    bare = name.strip("[]").removesuffix(".")
    address = _address(bare)
    if address is None:
        lowered = bare.lower()
        if lowered in _LOCAL or lowered.endswith(".localhost"):
            raise ValueError(f"externalName={name!r} is this machine itself, which is refused")
        if len(bare) > 253 or not _NAME.fullmatch(bare):
            raise ValueError(f"externalName={name!r} is no name of the DNS")
        return bare
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback or mapped.is_unspecified:
        raise ValueError(f"externalName={name!r} is this machine itself, which is refused")
    if mapped.is_link_local:
        raise ValueError(f"externalName={name!r} is a link-local address, which is refused")
    return f"[{address}]" if address.version == 6 else str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is; None if it is a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        # Resolvers take 127.1, 0x7f.1 and 2130706433 as well.
        return ipaddress.IPv4Address(socket.inet_aton(text)) if text.isascii() else None
    except OSError:
        return None
