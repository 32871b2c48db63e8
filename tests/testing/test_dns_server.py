"""The name server that users' tests import, asked by dnspython and by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from sticky_asgi.testing import DnsQuery, DnsServer
from tests.loops import run


async def ask(
    server: DnsServer, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = 5
) -> dns.message.Message:
    host, _, port = server.address.rpartition(":")
    query = dns.message.make_query(name, kind)
    send: Any = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    response = await send(query, host, port=int(port), timeout=timeout)
    return cast(dns.message.Message, response)


def answers(response: dns.message.Message) -> list[str]:
    return [
        line for rrset in response.answer for line in sorted(rrset.to_text().lower().splitlines())
    ]


def rcode(response: dns.message.Message) -> str:
    return dns.rcode.to_text(response.rcode())


@pytest.mark.parametrize("tcp", [False, True])
def test_it_tells_what_was_set(tcp: bool) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1", "127.0.0.2", ttl=7)
            response = await ask(server, "WEB.test", tcp=tcp)
            assert answers(response) == ["web.test. 7 in a 127.0.0.1", "web.test. 7 in a 127.0.0.2"]
            assert server.queries == [DnsQuery("web.test", "A", "tcp" if tcp else "udp")]
            assert repr(server) == f"<DnsServer {server.address} [1 names and types]>"

    run(main)


def test_it_changes_while_it_runs() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1")
            server.set("web.test", "A", "127.0.0.2")
            server.set("web.test", "TXT", "x")
            assert answers(await ask(server, "web.test")) == ["web.test. 30 in a 127.0.0.2"]
            server.remove("web.test", "A")
            response = await ask(server, "web.test")
            assert (rcode(response), answers(response)) == ("NOERROR", [])
            server.remove("web.test")
            assert rcode(await ask(server, "web.test")) == "NXDOMAIN"

    run(main)


def test_there_is_none_for_a_time() -> None:
    async def main() -> None:
        async with DnsServer(negative_ttl=9) as server:
            query = await ask(server, "web.test")
            assert isinstance(query, dns.message.QueryMessage)
            assert query.resolve_chaining().minimum_ttl == 9

    run(main)


def test_it_follows_aliases_also_in_circles() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("www.test", "CNAME", "Web.test")
            server.set("web.test", "A", "127.0.0.1")
            server.set("a.test", "CNAME", "b.test")
            server.set("b.test", "CNAME", "a.test")
            assert answers(await ask(server, "www.test")) == [
                "www.test. 30 in cname web.test.",
                "web.test. 30 in a 127.0.0.1",
            ]
            assert answers(await ask(server, "www.test", "CNAME")) == [
                "www.test. 30 in cname web.test."
            ]
            assert len((await ask(server, "a.test")).answer) == 2

    run(main)


@pytest.mark.parametrize("additional", [True, False])
def test_addresses_of_services(additional: bool) -> None:
    async def main() -> None:
        async with DnsServer(additional=additional) as server:
            server.set("web.test", "SRV", "0 1 80 a.test", "0 1 80 b.test")
            server.set("a.test", "A", "127.0.0.1")
            server.set("a.test", "AAAA", "::1")
            server.set("c.test", "A", "127.0.0.1")
            response = await ask(server, "web.test", "SRV")
            told = [rrset.to_text() for rrset in response.additional]
            assert told == (
                ["a.test. 30 IN A 127.0.0.1", "a.test. 30 IN AAAA ::1"] if additional else []
            )

    run(main)


def test_a_long_answer_is_truncated() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", *(f"127.0.0.{number}" for number in range(100)))
            response = await ask(server, "web.test")
            assert response.flags & dns.flags.TC
            assert answers(response) == []
            assert len(answers(await ask(server, "web.test", tcp=True))) == 100

    run(main)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("fault", ["servfail", "refused", "nxdomain"])
def test_answers_that_are_errors(fault: Any, tcp: bool) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1")
            server.set("api.test", "A", "127.0.0.1")
            server.fail(fault, "web.test")
            assert rcode(await ask(server, "web.test", tcp=tcp)) == fault.upper()
            assert rcode(await ask(server, "api.test", tcp=tcp)) == "NOERROR"
            server.heal()
            assert rcode(await ask(server, "web.test", tcp=tcp)) == "NOERROR"

    run(main)


@pytest.mark.parametrize("tcp", [False, True])
def test_silence(tcp: bool) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.fail("silence")
            with pytest.raises(dns.exception.Timeout):
                await ask(server, "web.test", tcp=tcp, timeout=0.1)
            assert len(server.queries) == 1

    run(main)


@pytest.mark.parametrize("tcp", [False, True])
def test_garbage(tcp: bool) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.fail("garbage")
            with pytest.raises(dns.exception.DNSException):
                await ask(server, "web.test", tcp=tcp, timeout=0.5)

    run(main)


def test_truncation_on_purpose() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1")
            server.fail("truncate")
            assert (await ask(server, "web.test")).flags & dns.flags.TC
            assert not (await ask(server, "web.test", tcp=True)).flags & dns.flags.TC

    run(main)


def test_a_delay(no_leaks: None) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.delay = 0.2
            with pytest.raises(dns.exception.Timeout):
                await ask(server, "web.test", timeout=0.05)
            server.delay = 0.01
            assert rcode(await ask(server, "web.test", timeout=5)) == "NXDOMAIN"
            server.delay = 60
            # It does not outlive the server.
            with pytest.raises(dns.exception.Timeout):
                await ask(server, "web.test", tcp=True, timeout=0.05)

    run(main)


def test_what_is_no_question_gets_no_answer() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            query = dns.message.make_query("web.test", "A").to_wire()
            writer.write(b"\x00\x03abc" + len(query).to_bytes(2, "big") + query[:5])
            await writer.drain()
            writer.write(query[5:])
            length = int.from_bytes(await reader.readexactly(2), "big")
            assert rcode(dns.message.from_wire(await reader.readexactly(length))) == "NXDOMAIN"
            writer.close()
            await writer.wait_closed()
            assert len(server.queries) == 1

    run(main)


def test_it_runs_beside_an_event_loop(no_leaks: None) -> None:
    server = DnsServer()
    for _ in range(2):
        with server.running():
            server.set("web.test", "A", "127.0.0.1")
            assert rcode(run(lambda: ask(server, "web.test"))) == "NOERROR"
    assert len(server.queries) == 2


def test_mistakes() -> None:
    server = DnsServer()
    with pytest.raises(ValueError, match="fault must be one of"):
        server.fail(cast(Any, "flood"))
    with pytest.raises(dns.exception.DNSException):
        server.set("web.test", "A", "somewhere")


WITHOUT = """
import sys
sys.modules["dns"] = None
from sticky_asgi.testing import VirtualClock
import sticky_asgi.testing as testing
assert not hasattr(testing, "nothing")
try:
    testing.DnsServer
except ImportError as exc:
    print(exc)
"""


def test_without_the_extra_the_clock_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "DnsServer takes an extra: pip install 'sticky-asgi[dns]'\n"
