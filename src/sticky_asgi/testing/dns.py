"""A name server for tests: in process, on loopback, with the records and the faults you set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Literal, NamedTuple, Self, TypeAlias, get_args

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdatatype
    import dns.rrset
except ImportError as exc:
    raise ImportError("DnsServer takes an extra: pip install 'sticky-asgi[dns]'") from exc

Fault: TypeAlias = Literal["servfail", "refused", "nxdomain", "silence", "truncate", "garbage"]

_RCODES = {
    "servfail": dns.rcode.SERVFAIL,
    "refused": dns.rcode.REFUSED,
    "nxdomain": dns.rcode.NXDOMAIN,
}

#: What is no DNS message, but for its length.
_GARBAGE = b"\xff" * 40

#: How many CNAMEs are followed, as in a loop of them.
_MAX_CHAIN = 8

_ADDRESSES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsQuery(NamedTuple):
    """A question that was asked.

    Args:
        name: In lower case, without the last dot.
        type: `"A"`, `"SRV"` and so on.
        protocol: `"udp"` or `"tcp"`.
    """

    name: str
    type: str
    protocol: Literal["udp", "tcp"]


class DnsServer:
    """A name server that runs in your test: `async with` in its event loop, or `with running()`.

    It answers over UDP and TCP, on one port of 127.0.0.1 that the system picks. It knows the
    records you set, follows CNAMEs among them, adds the addresses of SRV targets, and says of any
    other name that it does not exist. Records and faults may change at any time.

    Args:
        negative_ttl: Seconds for which "there is none" holds. Default 30.
        additional: Whether the addresses of SRV targets are told along. Default True.

    Attributes:
        queries: What was asked, oldest first.
        delay: Seconds that each answer takes. Default 0.

    Raises:
        ImportError: dnspython, the extra `dns`, is not installed.

    Example:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1", "127.0.0.2", ttl=30)
            source = DNS("web.test", port=8000, nameservers=[server.address])
    """

    def __init__(self, *, negative_ttl: int = 30, additional: bool = True) -> None:
        self.negative_ttl = negative_ttl
        self.additional = additional
        self.queries: list[DnsQuery] = []
        self.delay = 0.0
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self._faults: dict[dns.name.Name | None, Fault] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._connections: set[asyncio.BaseTransport] = set()
        self._listener: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """`127.0.0.1:40123`, as `nameservers` takes it. Known once it runs."""
        return f"127.0.0.1:{self._port}"

    def set(self, name: str, kind: str, *values: str, ttl: int = 30) -> None:
        """Put records in the place of those that the name has of this type.

        Args:
            name: Whose they are.
            kind: `"A"`, `"AAAA"`, `"SRV"`, `"CNAME"` or any other type.
            values: One for each record, as in zone files: `"127.0.0.1"`,
                `"10 5 8080 a.web.test"`. Names in them are whole ones. None: an empty answer.
            ttl: Seconds for which they hold.

        Raises:
            dns.exception.DNSException: What is no record of this type.
        """
        owner, rdtype = _name(name), dns.rdatatype.from_text(kind)
        rrset = dns.rrset.from_text_list(
            owner, ttl, "IN", rdtype, values, origin=dns.name.root, relativize=False
        )
        self._records[owner, rdtype] = rrset

    def remove(self, name: str, kind: str | None = None) -> None:
        """Forget the records of a name: of one type, or, and then it does not exist, all."""
        owner = _name(name)
        for key in [key for key in self._records if key[0] == owner]:
            if kind is None or key[1] == dns.rdatatype.from_text(kind):
                del self._records[key]

    def fail(self, fault: Fault, name: str | None = None) -> None:
        """Answer wrongly from now on.

        Args:
            fault: `"servfail"`, `"refused"` and `"nxdomain"` are answers; `"silence"` is none;
                `"truncate"` has nothing in answers over UDP but that they are truncated;
                `"garbage"` is no DNS message.
            name: When asked for this name. Default None: when asked for any.

        Raises:
            ValueError: There is no such fault.
        """
        if fault not in get_args(Fault):
            raise ValueError(f"fault must be one of {get_args(Fault)}, got {fault!r}")
        self._faults[None if name is None else _name(name)] = fault

    def heal(self) -> None:
        """Answer rightly from now on, and at once."""
        self._faults.clear()
        self.delay = 0.0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Tcp(self), "127.0.0.1", 0)
        self._port = self._listener.sockets[0].getsockname()[1]
        try:
            await loop.create_datagram_endpoint(
                lambda: _Udp(self), local_addr=("127.0.0.1", self._port)
            )
        except OSError:
            self._listener.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for connection in tuple(self._connections):
            connection.close()
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
        # Transports are closed in the loop's next turn.
        await asyncio.sleep(0)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve from a thread of its own while the block lasts, beside any event loop or none."""
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_forever, name="DnsServer", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _receive(
        self, wire: bytes, protocol: Literal["udp", "tcp"], send: Callable[[bytes], None]
    ) -> None:
        """Answer a question, now or later or not at all."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return
        if len(query.question) != 1 or not isinstance(query, dns.message.QueryMessage):
            return
        question = query.question[0]
        name = question.name.canonicalize()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries.append(DnsQuery(name.to_text(omit_final_dot=True), kind, protocol))
        answer = self._answer(query, name, protocol)
        if answer is None:
            return
        if not self.delay:
            send(answer)
            return

        def send_later() -> None:
            self._timers.discard(timer)
            send(answer)

        timer = asyncio.get_running_loop().call_later(self.delay, send_later)
        self._timers.add(timer)

    def _answer(
        self, query: dns.message.QueryMessage, name: dns.name.Name, protocol: str
    ) -> bytes | None:
        fault = self._faults.get(name, self._faults.get(None))
        if fault == "silence":
            return None
        if fault == "garbage":
            return _GARBAGE
        response = dns.message.make_response(query, recursion_available=True)
        if fault in _RCODES:
            response.set_rcode(_RCODES[fault])
        else:
            self._fill(response, name, query.question[0].rdtype)
        if protocol == "tcp":
            return response.to_wire()
        if fault == "truncate":
            return _truncated(query)
        try:
            # The answer to a question without EDNS has 512 bytes at most (RFC 1035 §4.2.1).
            return response.to_wire(max_size=max(512, query.payload))
        except dns.exception.TooBig:
            return _truncated(query)

    def _fill(
        self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> None:
        for _ in range(_MAX_CHAIN):
            alias = self._records.get((name, dns.rdatatype.CNAME))
            if not alias or kind == dns.rdatatype.CNAME:
                break
            response.answer.append(alias)
            name = alias[0].target
        rrset = self._records.get((name, kind))
        if rrset:
            response.answer.append(rrset)
            if kind == dns.rdatatype.SRV and self.additional:
                self._tell_along(response, rrset)
            return
        if not any(owner == name for owner, _ in tuple(self._records)):
            response.set_rcode(dns.rcode.NXDOMAIN)
        soa = f". . 1 3600 600 86400 {self.negative_ttl}"
        response.authority.append(
            dns.rrset.from_text(dns.name.root, self.negative_ttl, "IN", "SOA", soa)
        )

    def _tell_along(self, response: dns.message.Message, services: dns.rrset.RRset) -> None:
        targets = {service.target.canonicalize() for service in services}
        response.additional += [
            rrset
            for (owner, kind), rrset in tuple(self._records.items())
            if rrset and owner in targets and kind in _ADDRESSES
        ]

    def __repr__(self) -> str:
        return f"<DnsServer {self.address} [{len(self._records)} names and types]>"


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self._transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server._receive(data, "udp", lambda answer: self._transport.sendto(answer, addr))


class _Tcp(asyncio.Protocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Each message has its length before it (RFC 1035 §4.2.2)."""
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._server._receive(message, "tcp", self._send)

    def _send(self, answer: bytes) -> None:
        self._transport.write(len(answer).to_bytes(2, "big") + answer)


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text).canonicalize()


def _truncated(query: dns.message.QueryMessage) -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.TC
    return response.to_wire()
