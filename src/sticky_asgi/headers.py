"""Rules for header sections: what is refused, removed, kept and added on the way through.

Pure functions over raw header lists. They work on lists, not on mappings, so order, duplicates
and bytes survive; names come and go in lower case, as ASGI has them.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence

from .exceptions import BadRequest, HeadTooLarge, MalformedResponse
from .request import RawHeaders

#: Fields that concern one connection only (RFC 9110 §7.6.1), and Proxy-Connection and Keep-Alive,
#: which the same section tells intermediaries to remove although they are not standard.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Never passed on as the client sent them: Expect is answered by the server in front (RFC 9110
#: §10.1.1), and the others are the gateway's to say.
_REPLACED = frozenset(
    {
        b"expect",
        b"sticky-session",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
    }
)
#: What only a trusted proxy may tell the backends.
_TRUSTED_ONLY = frozenset({b"forwarded", b"x-forwarded-prefix", b"x-real-ip"})

_DROPPED = HOP_BY_HOP | _REPLACED
_DROPPED_UNTRUSTED = _DROPPED | _TRUSTED_ONLY

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 §5.5
# RFC 3986 §3.2.2 and a port; an address with colons is bracketed.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[A-Za-z0-9\-._~%!$&'()*+,;=:]+\])(?::[0-9]*)?"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")


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


class RequestHead:
    """A request's header section, checked, with what the gateway itself must know of it.

    Attributes:
        host: The Host field's value, or None (HTTP/1.0 only).
        content_length: Declared length of the body, or None.
        is_chunked: Whether the body is announced by Transfer-Encoding.
        connection: Field names that `Connection` lists, besides the well-known ones.
        forwarded: The forwarded headers of the client, values in order.
    """

    __slots__ = ("connection", "content_length", "forwarded", "headers", "host", "is_chunked")

    def __init__(self, headers: RawHeaders, *, http_version: str, limit: int = 65536) -> None:
        # A copy: uvicorn's httptools protocol appends the trailers of a chunked body to the list
        # in the scope, after it has been checked here. It also leaves the white space behind a
        # value, which is not part of it (RFC 9110 §5.5).
        headers = [(name.lower(), value.strip(b" \t")) for name, value in headers]
        if http_version >= "2":
            headers = _without_crumbs(headers)
        self.headers = headers
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.is_chunked = False
        self.connection: frozenset[bytes] = frozenset()
        self.forwarded: dict[bytes, list[bytes]] = {}
        _check_fields(headers, limit)
        hosts = 0
        for name, value in headers:
            if name == b"host":
                hosts += 1
                self.host = value
            elif name == b"content-length":
                self._read_length(value)
            elif name == b"transfer-encoding":
                self._read_coding(value)
            elif name == b"connection":
                self.connection |= listed(value)
            elif name in _REPLACED and name != b"expect":
                self.forwarded.setdefault(name, []).append(value)
        if self.is_chunked and self.content_length is not None:
            # RFC 9112 §6.3: an attempt at request smuggling, or as good as one.
            raise BadRequest("both Transfer-Encoding and Content-Length")
        if self.is_chunked and http_version == "1.0":
            # RFC 9112 §6.1: whoever passed it on may have framed it differently.
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
        if hosts > 1 or (hosts == 0 and http_version == "1.1"):
            # RFC 9112 §3.2
            raise BadRequest(f"{hosts or 'no'} Host fields")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise BadRequest(f"malformed Host {self.host!r}")

    def _read_length(self, value: bytes) -> None:
        # RFC 9112 §6.3 rule 5: a list of equal lengths may be taken for one; we refuse the list
        # and accept repeated equal fields.
        if not _DIGITS.fullmatch(value):
            raise BadRequest(f"malformed Content-Length {value!r}")
        length = int(value)
        if self.content_length is not None and self.content_length != length:
            raise BadRequest("unequal Content-Length fields")
        self.content_length = length

    def _read_coding(self, value: bytes) -> None:
        # RFC 9112 §6.1: a coding that the gateway does not know cannot be framed safely.
        if self.is_chunked or value.strip(b" \t").lower() != b"chunked":
            raise BadRequest(f"unsupported Transfer-Encoding {value!r}")
        self.is_chunked = True

    def __repr__(self) -> str:
        return f"<RequestHead {len(self.headers)} fields>"


def _without_crumbs(headers: RawHeaders) -> RawHeaders:
    # RFC 9113 §8.2.3: HTTP/2 may split Cookie; for other versions it must be one field again.
    crumbs = [value for name, value in headers if name == b"cookie"]
    if len(crumbs) < 2:
        return headers
    joined = [field for field in headers if field[0] != b"cookie"]
    return [*joined, (b"cookie", b"; ".join(crumbs))]


def listed(value: bytes) -> frozenset[bytes]:
    """The members of a comma-separated list, in lower case."""
    return frozenset(part.strip(b" \t").lower() for part in value.split(b",")) - {b""}


def _check_fields(headers: RawHeaders, limit: int) -> None:
    if sum(len(name) + len(value) + 4 for name, value in headers) > limit:
        raise HeadTooLarge("request head too large")
    if fault := _field_fault(headers):
        raise BadRequest(fault)


def _field_fault(headers: RawHeaders) -> str | None:
    """What is wrong with a field: all of them are looked at in two sweeps, for speed."""
    names = [name for name, _ in headers]
    if names and not (all(names) and _TOKEN.fullmatch(b"".join(names))):
        return "malformed header name"
    if _NOT_IN_VALUE.search(b"".join([value for _, value in headers])):
        return "control character in a header value"
    return None


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


def visitor_scheme(scheme: str, head: RequestHead, *, is_trusted: bool) -> str:
    """`https` or `http`: as a trusted proxy says, else as the connection is."""
    if is_trusted:
        claimed = head.forwarded.get(b"x-forwarded-proto", [b""])[-1]
        claimed = claimed.rpartition(b",")[2].strip(b" \t").lower()
        if claimed in (b"http", b"https", b"ws", b"wss"):
            scheme = claimed.decode("ascii")
    return "https" if scheme in ("https", "wss") else "http"


def upstream_headers(
    head: RequestHead,
    *,
    keep_host: bool,
    peer: str | None,
    scheme: str,
    is_trusted: bool,
    rfc7239: bool = False,
) -> RawHeaders:
    """The header section for the backend, without framing and affinity.

    Args:
        head: The request's own header section.
        keep_host: Whether the client's Host is passed on; else the caller adds another.
        peer: Address of the connection's other end, if it has one.
        scheme: Scheme the visitor used.
        is_trusted: Whether the peer's forwarded headers are appended to, else replaced.
        rfc7239: Whether to write the Forwarded header (RFC 7239) as well.
    """
    dropped = _DROPPED if is_trusted else _DROPPED_UNTRUSTED
    if not keep_host:
        dropped = dropped | {b"host"}
    if head.connection:
        # Host and Content-Length are not options of a connection, whatever Connection says.
        dropped = dropped | (head.connection - {b"host", b"content-length"})
    result: RawHeaders = []
    has_length = False
    for name, value in head.headers:
        # CGI and WSGI take `X_Forwarded_For` for `X-Forwarded-For`.
        plain = name.replace(b"_", b"-") if b"_" in name else name
        if plain in dropped or (name == b"content-length" and has_length):
            continue
        if not is_trusted and plain.startswith(b"x-forwarded-"):
            continue
        if name == b"content-length":
            has_length = True
        result.append((name, value))
    _add_forwarded(result, head, peer, scheme, is_trusted)
    if rfc7239:
        result.append((b"forwarded", _forwarded_element(peer, head.host, scheme)))
    return result


def _add_forwarded(
    result: RawHeaders, head: RequestHead, peer: str | None, scheme: str, is_trusted: bool
) -> None:
    told = head.forwarded if is_trusted else {}
    hops = told.get(b"x-forwarded-for", [])
    if peer:
        hops = [*hops, peer.encode("latin-1", "replace")]
    if hops:
        result.append((b"x-forwarded-for", b", ".join(hops)))
    result.append((b"x-forwarded-proto", scheme.encode("ascii")))
    host = told.get(b"x-forwarded-host", [head.host])[-1]
    if host is not None:
        result.append((b"x-forwarded-host", host))
    port = told.get(b"x-forwarded-port", [b""])[-1]
    result.append((b"x-forwarded-port", port if port.isdigit() else _port_of(host, scheme)))


def _port_of(host: bytes | None, scheme: str) -> bytes:
    if host is not None:
        _, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            return port
    return b"443" if scheme == "https" else b"80"


def _forwarded_element(peer: str | None, host: bytes | None, scheme: str) -> bytes:
    # RFC 7239 §6: an IPv6 address is bracketed and quoted; an unknown one has its own word.
    node = "unknown" if not peer else f'"[{peer}]"' if ":" in peer else peer
    parts = [b"for=" + node.encode("latin-1", "replace")]
    if host:
        parts.append(b'host="' + host + b'"')
    parts.append(b"proto=" + scheme.encode("ascii"))
    return b";".join(parts)


def downstream_headers(headers: RawHeaders, *, status: int) -> RawHeaders:
    """The header section for the client, of a backend's response.

    Raises:
        MalformedResponse: A field that must not be passed on.
    """
    result: RawHeaders = []
    connection: frozenset[bytes] = frozenset()
    has_coding = False
    for name, value in headers:
        name = name.lower()
        if name == b"connection":
            connection |= listed(value)
        elif name not in HOP_BY_HOP:
            result.append((name, value))
        elif name == b"transfer-encoding":
            has_coding = True
    # RFC 9110 §8.6: no Content-Length with 204. With 304 it is optional, and a server that
    # counts body bytes against it takes the missing body for an error. RFC 9112 §6.3: a transport
    # that lets Transfer-Encoding win leaves it to us to remove the length that lost.
    if status in (204, 304) or has_coding:
        connection |= {b"content-length"}
    else:
        connection -= {b"content-length"}
    if connection:
        result = [field for field in result if field[0] not in connection]
    if fault := _field_fault(result):
        raise MalformedResponse(f"{fault} of the response")
    return result


#: Statuses that caches may keep without being told to (RFC 9110 §15.1).
_CACHEABLE = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})


def is_cacheable(method: str, status: int, headers: RawHeaders) -> bool:
    """Whether a shared cache might keep this response though no Cache-Control says so."""
    return (
        method in ("GET", "HEAD")
        and status in _CACHEABLE
        and not any(name == b"cache-control" for name, _ in headers)
    )
