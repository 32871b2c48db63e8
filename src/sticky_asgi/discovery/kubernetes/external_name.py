"""Where a Service of the type ExternalName may lead.

Whoever may edit such a Service could have the gateway talk to what listens on the gateway's own
machine only, or to the cloud's metadata service: both are refused, as ingress-nginx does, and so
are IPv6 addresses that stand for such IPv4 ones. That is a guard by the name as it stands. It does
not look the name up: what a name of the DNS leads to may change at any moment.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TypeAlias

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*", re.IGNORECASE)
#: What distributions call the machine itself in /etc/hosts.
_LOCAL = (
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
)

#: What clouds call their metadata service.
_METADATA_NAMES = (
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.azure.internal",
    "instance-data",
    "instance-data.ec2.internal",
)
#: Where it is, if not at a link-local address: Amazon, Google, Alibaba, Oracle and Azure.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    )
)

#: Prefixes of 96 bits before an IPv4 address: IPv4-compatible (RFC 4291 §2.5.5.1) and NAT64
#: (RFC 6052 §2.1).
_BEFORE_IPV4 = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))
#: NAT64 as each network likes it (RFC 8215): nobody else knows where the IPv4 address stands.
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_external_name(name: str) -> str:
    """The name as a URL takes it.

    Raises:
        ValueError: It is none, or it leads to this machine, to a link-local address or to a
            cloud's metadata service.
    """
    bare = name.strip("[]").removesuffix(".")
    address = _address(bare)
    if address is None:
        lowered = bare.lower()
        if lowered in _LOCAL or lowered.endswith(".localhost"):
            raise ValueError(f"externalName={name!r} is this machine itself, which is refused")
        if lowered in _METADATA_NAMES:
            raise ValueError(f"externalName={name!r} is a metadata service, which is refused")
        if len(bare) > 253 or not _NAME.fullmatch(bare):
            raise ValueError(f"externalName={name!r} is no name of the DNS")
        return bare
    for place in _places(address):
        if place.is_loopback or place.is_unspecified:
            raise ValueError(f"externalName={name!r} is this machine itself, which is refused")
        if place.is_link_local:
            raise ValueError(f"externalName={name!r} is a link-local address, which is refused")
        if place in _METADATA:
            raise ValueError(f"externalName={name!r} is a metadata service, which is refused")
        if place in _LOCAL_NAT64:
            raise ValueError(f"externalName={name!r} may be any IPv4 address, which is refused")
    return f"[{address}]" if address.version == 6 else str(address)


def _places(address: _Address) -> list[_Address]:
    """The address, and those IPv4 addresses that a network may send its packets to."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in prefix for prefix in _BEFORE_IPV4):
        found.append(ipaddress.IPv4Address(address.packed[-4:]))
    return [address, *(place for place in found if place is not None)]


def _address(text: str) -> _Address | None:
    """The address that a text is; None if it is a name."""
    try:
        # By its bytes, since a zone would make another address of it.
        return ipaddress.ip_address(ipaddress.ip_address(text).packed)
    except ValueError:
        pass
    try:
        # Resolvers take 127.1, 0x7f.1 and 2130706433 as well; and here also what follows a space.
        return ipaddress.IPv4Address(socket.inet_aton(text)) if _NAME.fullmatch(text) else None
    except OSError:
        return None
