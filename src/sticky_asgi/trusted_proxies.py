"""Where a request comes from: what a connection shows, and what proxies in front may say of it."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence


class TrustedProxies:
    """The proxies in front of the gateway whose forwarded headers are believed.

    Args:
        networks: Addresses or networks, such as `"127.0.0.1"` or `"10.0.0.0/8"`, and `"unix"`
            for peers that come through a unix socket. Default: nobody is trusted.

    Raises:
        ValueError: An entry that is neither.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        if isinstance(networks, str) or not isinstance(networks, Iterable):
            raise ValueError(f"trusted_proxies must be a list of networks, got {networks!r}")
        self.networks = tuple(networks)
        self._unix = "unix" in self.networks
        parsed = []
        for entry in self.networks:
            if entry == "unix":
                continue
            try:
                if not isinstance(entry, str):
                    raise ValueError  # ipaddress takes 5 for 0.0.0.5
                parsed.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                raise ValueError(
                    f"trusted_proxies: {entry!r} is neither an address, a network nor 'unix'"
                ) from None
        self._parsed = tuple(parsed)
        self._is_trusted = functools.lru_cache(maxsize=4096)(self._look_up)

    def __contains__(self, address: str | None) -> bool:
        if not self.networks:
            return False
        return self._unix if not address else self._is_trusted(address)

    def _look_up(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._parsed)

    def __repr__(self) -> str:
        return f"<TrustedProxies {', '.join(self.networks) or 'nobody'}>"


def visitor_address(
    peer: str | None, forwarded_for: Iterable[bytes], trusted: TrustedProxies
) -> str | None:
    """The address a request really comes from.

    Walks X-Forwarded-For from the right, past the proxies that are trusted, and stops at the
    first hop that is not, or that is no address: what stands to its left may be invented.
    """
    address = peer
    if peer not in trusted:
        return address
    hops = b",".join(forwarded_for).decode("latin-1").split(",")
    for hop in reversed(hops):
        candidate = _bare_address(hop.strip())
        if candidate is None:
            break
        address = candidate
        if candidate not in trusted:
            break
    return address


def _bare_address(hop: str) -> str | None:
    """`1.2.3.4`, `1.2.3.4:80`, `::1` and `[::1]:80` without their port; None for others."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None


def visitor_scheme(
    scheme: str, forwarded: Mapping[bytes, Sequence[bytes]], is_trusted: bool
) -> str:
    """`https` or `http`: as a trusted proxy says, else as the connection is."""
    if is_trusted and forwarded:
        claimed = forwarded.get(b"x-forwarded-proto", [b""])[-1]
        claimed = claimed.rpartition(b",")[2].strip(b" \t").lower()
        if claimed in (b"http", b"https", b"ws", b"wss"):
            scheme = claimed.decode("ascii")
    return "https" if scheme in ("https", "wss") else "http"
