"""What name servers say of a name, asked with dnspython.

Nothing is decided here but what is an answer: "there is none" is one, and silence is not. Imported
only when it is needed: dnspython is optional.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.rrset

from ..exceptions import DiscoveryError

_ASYNCIO = dns.asyncbackend.get_backend("asyncio")


class Addresses(NamedTuple):
    """The addresses of a name.

    Args:
        addresses: In numerical order, each once; empty if the name has none.
        ttl: Seconds for which this holds.
        target: Where a chain of CNAMEs has led; without one, the name itself.
    """

    addresses: tuple[str, ...]
    ttl: int
    target: str


class Service(NamedTuple):
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class Services(NamedTuple):
    """The SRV records of a name.

    Args:
        records: Empty if there are none, or the one that says so: its target is the root.
        ttl: Seconds for which this holds.
        hosts: What was said of targets without being asked, in the additional section.
    """

    records: tuple[Service, ...]
    ttl: int
    hosts: Mapping[str, Addresses]


class Resolver:
    """Asks name servers, over UDP, and again over TCP where an answer is truncated.

    Args:
        nameservers: Addresses and ports; None: those of the system.
        timeout: Seconds for one question, all servers and repeats included.

    Raises:
        DiscoveryError: The system names no servers.
    """

    def __init__(self, nameservers: Sequence[tuple[str, int]] | None, timeout: float) -> None:
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=nameservers is None)
        except dns.resolver.NoResolverConfiguration as exc:
            raise DiscoveryError(f"the system names no name servers: {exc}") from None
        if nameservers is not None:
            self._resolver.nameservers = [
                dns.nameserver.Do53Nameserver(address, port) for address, port in nameservers
            ]
        self._resolver.lifetime = timeout
        # One that is silent leaves time for the next.
        self._resolver.timeout = min(self._resolver.timeout, timeout)

    @staticmethod
    def normalize(name: str) -> str | None:
        """The name in lower case without its last dot; None if it can be none, or is the root."""
        try:
            parsed = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return None
        return None if parsed == dns.name.root else _text(parsed)

    async def host(self, name: str) -> Addresses:
        """Where one host is: its IPv4 addresses, and only if it has none its IPv6 ones."""
        found = await self.addresses(name, "A")
        return found if found.addresses else await self.addresses(name, "AAAA")

    async def addresses(self, name: str, kind: str) -> Addresses:
        """The addresses of a name. Raises DiscoveryError if nobody answers."""
        _, chain = await self._ask(name, kind)
        return Addresses(
            _addresses_in([chain.answer]), chain.minimum_ttl, _text(chain.canonical_name)
        )

    async def services(self, name: str) -> Services:
        """The SRV records of a name. Raises DiscoveryError if nobody answers."""
        response, chain = await self._ask(name, "SRV")
        records = tuple(
            Service(record.priority, record.weight, record.port, _text(record.target))
            for record in chain.answer or ()
            if record.target != dns.name.root
        )
        return Services(records, chain.minimum_ttl, _hosts_in(response))

    async def _ask(
        self, name: str, kind: str
    ) -> tuple[dns.message.QueryMessage, dns.message.ChainingResult]:
        """The response, and where it leads, which may be nowhere."""
        # With the root at its end, so that no search domains are tried.
        asked = dns.name.from_text(name)
        try:
            response = await self._respond(asked, kind)
            return response, response.resolve_chaining()
        except dns.resolver.LifetimeTimeout:
            # The exception tells of each try, with ever other numbers.
            reason = f"no name server answered within {self._resolver.lifetime:g} s"
        except dns.resolver.NoNameservers as exc:
            reason = _reasons(exc)
        except (dns.exception.DNSException, OSError) as exc:
            reason = str(exc) or type(exc).__name__
        raise DiscoveryError(f"{kind} of {name}: {reason}")

    async def _respond(self, asked: dns.name.Name, kind: str) -> dns.message.QueryMessage:
        try:
            answer = await self._resolver.resolve(
                asked, kind, raise_on_no_answer=False, backend=_ASYNCIO
            )
        except dns.resolver.NXDOMAIN as exc:
            missing: dns.message.QueryMessage = exc.response(asked)  # type: ignore[no-untyped-call]
            return missing
        return answer.response


def _reasons(exc: dns.resolver.NoNameservers) -> str:
    """`SERVFAIL from 10.0.0.2@53`, for each server."""
    told = {
        f"{reason or type(reason).__name__} from {server.removeprefix('Do53:')}"
        for server, _, _, reason, _ in exc.kwargs["errors"]
    }
    return "; ".join(sorted(told)) or "there is no name server to ask"


def _text(name: dns.name.Name) -> str:
    return name.canonicalize().to_text(omit_final_dot=True)


def _addresses_in(rrsets: Iterable[dns.rrset.RRset | None]) -> tuple[str, ...]:
    found = {ipaddress.ip_address(record.address) for rrset in rrsets for record in rrset or ()}
    return tuple(map(str, sorted(found, key=lambda address: (address.version, int(address)))))


def _hosts_in(response: dns.message.Message) -> dict[str, Addresses]:
    """Of names with both kinds of addresses, the IPv4 ones, as `Resolver.host` has it."""
    hosts: dict[str, Addresses] = {}
    for kind in (dns.rdatatype.AAAA, dns.rdatatype.A):
        for rrset in response.additional:
            if rrset.rdtype == kind:
                name = _text(rrset.name)
                hosts[name] = Addresses(_addresses_in([rrset]), rrset.ttl, name)
    return hosts
