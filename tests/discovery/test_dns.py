"""Pools that find their backends in DNS: a real resolver and server, and our own clock."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

import dns.resolver
import pytest

from sticky_asgi import DiscoveryError, Pool, WatchOptions
from sticky_asgi.discovery import DNS
from sticky_asgi.discovery.watcher import Watcher
from sticky_asgi.snapshot import Discovery, Snapshot
from sticky_asgi.testing import DnsServer
from tests.loops import run


class Time:
    """What passes while nobody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def source(server: DnsServer, name: str = "web.test", **options: Any) -> DNS:
    time = options.pop("time", None) or Time()
    options.setdefault("timeout", 0.2)
    return DNS(name, nameservers=[server.address], clock=time, sleep=time.sleep, **options)


async def first(discovery: Discovery) -> Snapshot:
    async with aclosing(cast(Any, discovery.watch())) as snapshots:
        async for snapshot in snapshots:
            return cast(Snapshot, snapshot)
    raise AssertionError("a source goes on for ever")


def found(snapshot: Snapshot) -> list[tuple[str, str | None]]:
    return [(backend.id, backend.url) for backend in snapshot.backends]


def ask(fill: Callable[[DnsServer], object], name: str = "web.test", **options: Any) -> Snapshot:
    """The first snapshot from a server that was filled so."""

    async def main() -> Snapshot:
        async with DnsServer() as server:
            fill(server)
            return await first(source(server, name, **options))

    return run(main)


# Addresses


def test_each_address_is_a_backend() -> None:
    snapshot = ask(lambda s: s.set("web.test", "A", "127.0.0.10", "127.0.0.9"), port=8000)
    assert found(snapshot) == [
        ("127.0.0.9:8000", "http://127.0.0.9:8000"),
        ("127.0.0.10:8000", "http://127.0.0.10:8000"),
    ]
    assert snapshot.intents == {}
    assert snapshot.affinity is None
    assert dict(snapshot.backends[0].metadata) == {"name": "web.test", "target": "web.test"}


def test_ipv6() -> None:
    snapshot = ask(
        lambda s: s.set("web.test", "AAAA", "::2", "::1"), type="AAAA", scheme="https", port=8443
    )
    assert found(snapshot) == [
        ("[::1]:8443", "https://[::1]:8443"),
        ("[::2]:8443", "https://[::2]:8443"),
    ]


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_without_a_port_it_is_the_schemes(scheme: str, port: int) -> None:
    snapshot = ask(lambda s: s.set("web.test", "A", "127.0.0.1"), scheme=scheme)
    assert [(b.port, b.scheme) for b in snapshot.backends] == [(port, scheme)]


def test_aliases_are_followed_and_the_shortest_time_holds() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("www.test", "CNAME", "web.test", ttl=12)
            server.set("web.test", "CNAME", "b.web.test", ttl=50)
            server.set("b.web.test", "A", "127.0.0.1", ttl=40)
            time = Time()
            snapshots = source(server, "WWW.test.", time=time).watch()
            snapshot = await anext(snapshots)
            assert snapshot.backends[0].metadata["target"] == "b.web.test"
            assert snapshot.backends[0].metadata["name"] == "www.test"
            server.set("b.web.test", "A", "127.0.0.2")
            await anext(snapshots)
            assert 12 <= time.pauses[0] <= 13.2

    run(main)


def test_aliases_in_a_circle_lead_nowhere() -> None:
    def fill(server: DnsServer) -> None:
        server.set("web.test", "CNAME", "www.test")
        server.set("www.test", "CNAME", "web.test")

    with pytest.raises(DiscoveryError, match=r"^A of web\.test: "):
        ask(fill)


def test_no_search_domains_are_tried() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web", "A", "127.0.0.1")
            await first(source(server, "web"))
            with pytest.raises(DiscoveryError):
                await first(source(server, "api"))
            assert [query.name for query in server.queries] == ["web", "api"]

    run(main)


def test_a_long_answer_comes_over_tcp() -> None:
    addresses = [f"127.0.1.{number}" for number in range(1, 101)]

    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", *addresses)
            snapshot = await first(source(server))
            assert [backend.host for backend in snapshot.backends] == addresses
            assert [query.protocol for query in server.queries] == ["udp", "tcp"]

    run(main)


def test_too_many_are_refused() -> None:
    with pytest.raises(DiscoveryError, match="3 records are more than max_backends=2"):
        ask(lambda s: s.set("web.test", "A", "127.0.0.1", "127.0.0.2", "127.0.0.3"), max_backends=2)


# Time


@pytest.mark.parametrize(
    ("ttl", "held"),
    [
        pytest.param(0, 5, id="floor"),
        pytest.param(7, 7, id="as the record says"),
        pytest.param(3600, 60, id="ceiling"),
    ],
)
def test_an_answer_holds_for_its_ttl(ttl: int, held: float) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1", ttl=ttl)
            time = Time()
            snapshots = source(server, time=time).watch()
            await anext(snapshots)

            def change() -> None:
                server.set("web.test", "A", "127.0.0.2", ttl=ttl)

            asyncio.get_running_loop().call_later(0.05, change)
            assert found(await anext(snapshots)) == [("127.0.0.2:80", "http://127.0.0.2:80")]
            # What is the same is asked for again, and is no snapshot.
            assert len(time.pauses) == len(server.queries) - 1 > 1
            assert all(held <= pause <= held * 1.1 for pause in time.pauses)

    run(main)


def test_not_all_ask_at_one_moment() -> None:
    random.seed(1)

    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1")
            time = Time()
            for number in range(2, 7):
                snapshots = source(server, time=time).watch()
                await anext(snapshots)
                server.set("web.test", "A", f"127.0.0.{number}")
                await anext(snapshots)
            assert len(set(time.pauses)) == 5

    run(main)


def forget(server: DnsServer) -> None:
    server.remove("web.test")


def empty(server: DnsServer) -> None:
    server.set("web.test", "A")


def forget_but_keep_the_name(server: DnsServer) -> None:
    server.set("web.test", "TXT", "x")
    server.remove("web.test", "A")


@pytest.mark.parametrize("lose", [forget, empty, forget_but_keep_the_name])
def test_an_empty_answer_is_believed_after_the_grace(lose: Callable[[DnsServer], None]) -> None:
    async def main() -> None:
        async with DnsServer(negative_ttl=8) as server:
            server.set("web.test", "A", "127.0.0.1")
            time = Time()
            discovery = source(server, grace=30, time=time)
            snapshots = discovery.watch()
            await anext(snapshots)
            lose(server)
            with pytest.raises(DiscoveryError, match=r"^A of web\.test: there are no such records"):
                await anext(snapshots)
            time.now += 28
            with pytest.raises(DiscoveryError):
                await first(discovery)
            time.now += 3
            snapshots = discovery.watch()
            assert await anext(snapshots) == Snapshot(backends=())
            time.pauses.clear()
            asyncio.get_running_loop().call_later(0.05, server.set, "web.test", "A", "127.0.0.2")
            assert found(await anext(snapshots)) == [("127.0.0.2:80", "http://127.0.0.2:80")]
            assert 8 <= time.pauses[0] <= 8.8

    run(main)


def test_one_answer_that_is_not_empty_begins_the_grace_anew() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            time = Time()
            discovery = source(server, grace=30, time=time)
            for _ in range(3):
                with pytest.raises(DiscoveryError):
                    await first(discovery)
                time.now += 31
                server.set("web.test", "A", "127.0.0.1")
                await first(discovery)
                server.remove("web.test")

    run(main)


def test_a_failure_begins_the_grace_anew() -> None:
    """A server that is coming back may say that there is no such name before it knows better."""

    async def main() -> None:
        async with DnsServer() as server:
            time = Time()
            discovery = source(server, grace=30, time=time)
            for fault in ("nxdomain", "servfail", "nxdomain"):
                server.fail(cast(Any, fault))
                with pytest.raises(DiscoveryError):
                    await first(discovery)
                time.now += 31
            assert await first(discovery) == Snapshot(backends=())

    run(main)


@pytest.mark.parametrize("has_believed", [False, True])
def test_a_watch_that_is_left_begins_the_grace_anew(has_believed: bool) -> None:
    """Nobody has looked since: what was empty then may not be so for long."""

    async def main() -> None:
        async with DnsServer() as server:
            time = Time()
            discovery = source(server, grace=30, time=time)
            with pytest.raises(DiscoveryError):
                await first(discovery)
            time.now += 31
            if has_believed:
                assert await first(discovery) == Snapshot(backends=())
            else:
                server.fail("silence")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await first(discovery)
                server.heal()
            with pytest.raises(DiscoveryError):
                await first(discovery)

    run(main)


async def has_failed(pool: Pool, times: int) -> None:
    while pool.watch_status.failures_total < times:
        assert not pool.watch_status.has_snapshot
        await asyncio.sleep(0.01)


def test_a_pool_that_is_left_between_two_watches_begins_the_grace_anew() -> None:
    """Its follower was pausing, so that the source could not be told."""

    async def main() -> None:
        async with DnsServer() as server:
            time = Time()
            options = WatchOptions(min_backoff=60, max_backoff=60)
            pool = Pool("shop", discovery=source(server, grace=30, time=time), watch=options)
            for times in (1, 2):
                watcher = Watcher(pool)
                await has_failed(pool, times)
                await watcher.aclose()
                time.now += 3600

    run(main)


def test_a_pool_that_is_followed_on_is_empty_after_the_grace() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            time = Time()
            options = WatchOptions(min_backoff=0.01, max_backoff=0.01)
            pool = Pool("shop", discovery=source(server, grace=30, time=time), watch=options)
            watcher = Watcher(pool)
            await has_failed(pool, 3)
            time.now += 31
            await watcher.wait_for_start()
            assert pool.watch_status.has_snapshot
            assert pool.backends == ()
            await watcher.aclose()

    run(main)


def test_without_grace_an_empty_answer_is_believed_at_once() -> None:
    assert ask(lambda server: None, grace=0) == Snapshot(backends=())


def test_each_event_loop_has_its_own_grace() -> None:
    time = Time()

    async def main(discovery: DNS | None = None) -> DNS:
        async with DnsServer() as server:
            if discovery is None:
                discovery = source(server, time=time, grace=30)
            else:
                object.__setattr__(discovery, "nameservers", (server.address,))
            with pytest.raises(DiscoveryError):
                await first(discovery)
            time.now += 31
            return discovery

    discovery = run(main)
    run(lambda: main(discovery))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("servfail", r"A of web\.test: SERVFAIL from 127\.0\.0\.1@\d+", id="servfail"),
        pytest.param("refused", r"A of web\.test: REFUSED from 127\.0\.0\.1@\d+", id="refused"),
        pytest.param(
            "silence", r"A of web\.test: no name server answered within 0\.1 s", id="silence"
        ),
        pytest.param(
            "garbage", r"A of web\.test: no name server answered within 0\.1 s", id="garbage"
        ),
    ],
)
def test_silence_and_errors_are_never_taken_for_no_backends(fault: Any, reason: str) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.set("web.test", "A", "127.0.0.1")
            time = Time()
            discovery = source(server, grace=30, timeout=0.1, time=time)
            snapshots = discovery.watch()
            await anext(snapshots)
            server.fail(fault)
            with pytest.raises(DiscoveryError, match=f"^{reason}$"):
                await anext(snapshots)
            for _ in range(2):
                time.now += 1000
                with pytest.raises(DiscoveryError, match=f"^{reason}$"):
                    await first(discovery)
            server.heal()
            assert len((await first(discovery)).backends) == 1

    run(main)


def test_a_server_that_is_silent_leaves_the_word_to_the_next() -> None:
    async def main() -> None:
        async with DnsServer() as silent, DnsServer() as server:
            silent.fail("refused")
            server.set("web.test", "A", "127.0.0.1")
            discovery = DNS("web.test", nameservers=[silent.address, server.address])
            assert len((await first(discovery)).backends) == 1
            assert len(silent.queries) == 1

    run(main)


def test_no_server_at_all() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            address = server.address
        with pytest.raises(DiscoveryError, match=r"^A of web\.test: "):
            await first(DNS("web.test", nameservers=[address], timeout=0.2))

    run(main)


def test_a_watch_that_is_left_leaves_nothing_behind(no_leaks: None) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            server.fail("silence")
            watch = cast(Any, source(server, timeout=60).watch())
            waiting = asyncio.ensure_future(anext(watch))
            while not server.queries:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run(main)


def test_a_system_that_names_no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, *args: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", refuse)
    with pytest.raises(DiscoveryError, match="names no name servers"):
        run(lambda: first(DNS("web.test")))


# Services


def services(*values: str, **hosts: str) -> Callable[[DnsServer], None]:
    def fill(server: DnsServer) -> None:
        server.set("_http._tcp.web.test", "SRV", *values)
        for host, address in hosts.items():
            server.set(f"{host}.test", "AAAA" if ":" in address else "A", address)

    return fill


def ask_srv(fill: Callable[[DnsServer], object], **options: Any) -> Snapshot:
    return ask(fill, "_http._tcp.web.test", type="SRV", **options)


def ranks(snapshot: Snapshot) -> list[tuple[str, float, int]]:
    return [(backend.id, backend.weight, backend.priority) for backend in snapshot.backends]


def test_a_service_has_targets_with_ports_weights_and_priorities() -> None:
    fill = services(
        "20 5 8003 c.test",
        "10 1 8002 b.test",
        "10 3 8001 a.test",
        a="127.0.0.1",
        b="127.0.0.2",
        c="127.0.0.3",
    )
    snapshot = ask_srv(fill)
    assert ranks(snapshot) == [("a.test:8001", 3, 0), ("b.test:8002", 1, 0), ("c.test:8003", 5, 1)]
    assert [backend.url for backend in snapshot.backends] == [
        "http://127.0.0.1:8001",
        "http://127.0.0.2:8002",
        "http://127.0.0.3:8003",
    ]
    assert dict(snapshot.backends[0].metadata) == {
        "name": "_http._tcp.web.test",
        "target": "a.test",
    }


def test_weight_0_counts_as_1() -> None:
    """It is a small share by RFC 2782, whereas a backend of weight 0 gets no visitors."""
    fill = services("0 0 80 a.test", "0 9 80 b.test", a="127.0.0.1", b="127.0.0.2")
    assert ranks(ask_srv(fill)) == [("a.test:80", 1, 0), ("b.test:80", 9, 0)]


def test_a_target_is_one_backend_however_often_it_is_named() -> None:
    values = ("5 1 80 a.test", "5 7 80 A.test", "9 1 80 a.test", "9 1 81 a.test")
    fill = services(*values, a="127.0.0.1")
    assert ranks(ask_srv(fill)) == [("a.test:80", 7, 0), ("a.test:81", 1, 1)]


@pytest.mark.parametrize("additional", [True, False])
def test_addresses_of_targets_are_told_along_or_asked_for(additional: bool) -> None:
    async def main() -> None:
        async with DnsServer(additional=additional) as server:
            services("0 0 80 a.test", "0 0 80 b.test", a="127.0.0.1", b="::1")(server)
            server.set("a.test", "AAAA", "::9")
            snapshot = await first(source(server, "_http._tcp.web.test", type="SRV"))
            assert [backend.host for backend in snapshot.backends] == ["127.0.0.1", "::1"]
            asked = sorted(query[:2] for query in server.queries[1:])
            assert asked == (
                [] if additional else [("a.test", "A"), ("b.test", "A"), ("b.test", "AAAA")]
            )

    run(main)


def test_a_target_may_be_an_alias() -> None:
    def fill(server: DnsServer) -> None:
        services("0 0 80 a.test", b="127.0.0.1")(server)
        server.set("a.test", "CNAME", "b.test")

    assert found(ask_srv(fill)) == [("a.test:80", "http://127.0.0.1:80")]


def test_a_target_that_changes_its_address_is_the_same_backend() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            services("0 0 80 a.test", a="127.0.0.1")(server)
            snapshots = source(server, "_http._tcp.web.test", type="SRV").watch()
            assert found(await anext(snapshots)) == [("a.test:80", "http://127.0.0.1:80")]
            server.set("a.test", "A", "127.0.0.5", "127.0.0.4")
            assert found(await anext(snapshots)) == [("a.test:80", "http://127.0.0.4:80")]

    run(main)


def test_the_shortest_time_of_services_and_addresses_holds() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            services("0 0 80 a.test", "0 0 80 b.test", b="127.0.0.2")(server)
            server.set("a.test", "A", "127.0.0.1", ttl=9)
            time = Time()
            snapshots = source(server, "_http._tcp.web.test", type="SRV", time=time).watch()
            await anext(snapshots)
            server.remove("b.test")
            await anext(snapshots)
            assert 9 <= time.pauses[0] <= 9.9

    run(main)


def test_an_alias_without_an_address_is_left_out_by_the_name_of_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fill(server: DnsServer) -> None:
        services("0 0 80 a.test", "0 0 80 b.test", b="127.0.0.1")(server)
        server.set("a.test", "CNAME", "c.test")

    ask_srv(fill)
    assert caplog.messages == ["_http._tcp.web.test: left out, for want of an address: a.test"]


def test_a_target_without_an_address_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with DnsServer() as server:
            services("0 0 80 a.test", "0 0 80 b.test", b="127.0.0.2")(server)
            snapshots = source(server, "_http._tcp.web.test", type="SRV").watch()
            assert found(await anext(snapshots)) == [("b.test:80", "http://127.0.0.2:80")]
            server.set("b.test", "A", "127.0.0.3")
            await anext(snapshots)

    with caplog.at_level(logging.WARNING, "sticky_asgi"):
        run(main)
    assert caplog.messages == ["_http._tcp.web.test: left out, for want of an address: a.test"]


def test_a_target_that_nobody_answers_for_leaves_all_as_it_was() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            services("0 0 80 a.test", "0 0 80 b.test", b="127.0.0.2")(server)
            server.fail("servfail", "a.test")
            with pytest.raises(DiscoveryError, match=r"^A of a\.test: SERVFAIL"):
                await first(source(server, "_http._tcp.web.test", type="SRV"))

    run(main)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param(["0 0 80 ."], "there are no such records", id="decidedly not available"),
        pytest.param(["0 0 80 a.test"], "there are no such records", id="no target is left"),
        pytest.param(["0 0 0 a.test"], "a record has port 0", id="port 0"),
        pytest.param(
            ["0 0 1 a.test", "0 0 2 a.test", "0 0 3 a.test"],
            "3 records are more than max_backends=2",
            id="too many",
        ),
    ],
)
def test_services_that_cannot_be_used(values: list[str], reason: str) -> None:
    with pytest.raises(DiscoveryError, match=rf"^SRV of _http\._tcp\.web\.test: {reason}$"):
        ask_srv(services(*values), max_backends=2)


def test_a_service_that_says_it_is_not_there_has_no_target_to_ask_for() -> None:
    async def main() -> None:
        async with DnsServer() as server:
            services("0 0 0 .")(server)
            snapshot = await first(source(server, "_http._tcp.web.test", type="SRV", grace=0))
            assert snapshot == Snapshot(backends=())
            assert [query.type for query in server.queries] == ["SRV"]

    run(main)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"type": "MX"}, "type must be one of", id="type"),
        pytest.param({"scheme": "ftp"}, "scheme must be one of", id="scheme"),
        pytest.param({"port": 0}, "port must be a number from 1 to 65535, got 0", id="port 0"),
        pytest.param({"port": True}, "port must be a number", id="port true"),
        pytest.param({"port": 80, "type": "SRV"}, "port must be None with SRV", id="port, SRV"),
        pytest.param({"min_ttl": 0}, "min_ttl must be a positive", id="min_ttl"),
        pytest.param({"max_ttl": 1}, "max_ttl must be at least min_ttl", id="max_ttl"),
        pytest.param({"grace": -1}, "grace must be a positive", id="grace"),
        pytest.param({"timeout": float("inf")}, "timeout must be a positive", id="timeout"),
        pytest.param({"max_backends": 0}, "max_backends must be at least 1", id="max_backends"),
        pytest.param({"nameservers": []}, "nameservers must name at least one", id="no servers"),
        pytest.param({"nameservers": ["dns.test"]}, "nameservers must be IP", id="server's name"),
        pytest.param({"nameservers": ["10.0.0.1:x"]}, "nameservers must be IP", id="server's port"),
        pytest.param({"nameservers": ["10.0.0.1:0"]}, "nameservers must be IP", id="port 0"),
        pytest.param({"nameservers": "[::1]53"}, "nameservers must be IP", id="colon"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DNS("web.test", **options)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "x" * 64, "10.0.0.1", "::1", "[::1]", "a." * 130, "http://web.test", "a:80"],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        DNS(name)


def test_names_are_text() -> None:
    with pytest.raises(TypeError, match="name must be str"):
        DNS(cast(Any, 7))
    with pytest.raises(TypeError, match="a name server must be str"):
        DNS("web.test", nameservers=cast(Any, [7]))


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:5353", ("10.0.0.2", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_forms_of_name_servers(text: str, server: tuple[str, int]) -> None:
    from sticky_asgi.discovery.dns import parse_nameserver

    assert parse_nameserver(text) == server


def test_equal_options_are_the_same_source() -> None:
    assert DNS("web.test", port=80) == DNS("WEB.test.", port=80, clock=Time())
    assert DNS("web.test") != DNS("web.test", port=81)
    assert hash(DNS("web.test", nameservers=["::1"])) == hash(DNS("web.test", nameservers=["::1"]))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sticky_asgi.discovery.dns_answers")
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", cast(Any, None))
    with pytest.raises(ImportError, match=r"pip install 'sticky-asgi\[dns\]'"):
        DNS("web.test")
