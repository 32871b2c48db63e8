"""What goes wrong with an API server, and how a watch gets over it.

`failure_of(source.watch())` stands for one step of the core's back-off: it watches once more.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sticky_asgi import DiscoveryError
from sticky_asgi.discovery import KubernetesService
from sticky_asgi.discovery.kubernetes import api, copy, reflector
from sticky_asgi.testing.kubernetes import KubernetesError, endpoint, endpoint_slice, service
from tests.loops import run, run_and_collect, turn
from tests.servers import RawBackend, refusing_port, serve

from .kubernetes_cluster import (
    WATCHED,
    Cluster,
    cluster,
    failure_of,
    following,
    opened,
    pods_of,
)

LISTS = Counter({("list", resource): 1 for resource in WATCHED})
WATCHES = Counter({("watch", resource): 1 for resource in WATCHED})


async def after_a_second() -> None:
    """Until the streams have lived long enough to count."""
    await asyncio.sleep(reflector.SETTLED)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream counts as one after a tenth of a second."""
    monkeypatch.setattr(reflector, "SETTLED", 0.1)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream counts as one only after an hour: however busy the machine is, it ends before."""
    monkeypatch.setattr(reflector, "SETTLED", 3600)


# Streams that end


def test_it_lists_once_and_watches_from_there() -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            assert k8s.count() == LISTS + WATCHES
            for request in k8s.fake.requests:
                if request.resource == "services":
                    assert request.query["fieldSelector"] == "metadata.name=web"
                else:
                    assert request.query["labelSelector"] == "kubernetes.io/service-name=web"
                if request.verb == "watch":
                    assert request.query["allowWatchBookmarks"] == "true"
                    assert 240 <= int(request.query["timeoutSeconds"]) <= 300
                    assert request.query["resourceVersion"] == k8s.fake.version

    with cluster() as k8s:
        run(main)


ENDS: list[Any] = [
    pytest.param(lambda fake: fake.end_watches(), id="ended"),
    pytest.param(lambda fake: fake.drop_watches(), id="dropped"),
    pytest.param(lambda fake: fake.break_line(), id="half an event"),
]


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_is_resumed_where_it_was(end: Callable[[Any], int], quick: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            for pods in ("a", "abc", "ac"):
                await opened(k8s)
                await after_a_second()
                k8s.fake.requests.clear()
                known = int(k8s.fake.version)
                # It comes before the end, or else with the next stream.
                end(k8s.fake)
                k8s.pods(*pods)
                assert pods_of(await told.next()) == list(pods)
                await opened(k8s)
                assert k8s.count() == WATCHES
                (resumed,) = [one for one in k8s.fake.requests if one.resource == WATCHED[1]]
                assert int(resumed.query["resourceVersion"]) >= known

    with cluster() as k8s:
        run(main)


def test_a_bookmark_is_where_a_watch_goes_on(quick: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.compact()
            k8s.fake.bookmark()
            await after_a_second()
            k8s.fake.requests.clear()
            k8s.fake.end_watches()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
            assert k8s.count() == WATCHES

    with cluster() as k8s:
        run(main)


def test_streams_that_end_at_once_are_a_failure(slow: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.end_watches("services")
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
            k8s.fake.requests.clear()
            k8s.fake.end_watches("services")
            assert "watch services" in str(await told.fails())
            assert k8s.count() == {}

    with cluster() as k8s:
        run(main)


def test_after_a_failure_nothing_is_mended_at_once(slow: None) -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.send_raw(b"garbage\n")
            await told.fails()
        await opened(k8s, 0)
        k8s.fake.requests.clear()
        async with following(source.watch()) as told:
            assert await told.is_silent()
            await opened(k8s)
            k8s.fake.end_watches()
            assert "ended the stream at once" in str(await told.fails())
        assert k8s.count() == WATCHES

    with cluster() as k8s:
        run(main)


# Versions that have expired


def test_an_expired_version_is_one_list(quick: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            for pods in ("a", "ab"):
                await opened(k8s)
                await after_a_second()
                k8s.fake.requests.clear()
                k8s.fake.expire_watches()
                k8s.pods(*pods)
                assert pods_of(await told.next()) == list(pods)
                await opened(k8s)
                assert k8s.count() == LISTS + WATCHES

    with cluster() as k8s:
        run(main)


@pytest.mark.parametrize("is_status", [False, True], ids=["event", "status"])
def test_a_version_that_expired_meanwhile_is_one_list(is_status: bool, quick: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            await after_a_second()
            k8s.fake.requests.clear()
            if is_status:
                k8s.fake.fail(410, "watch", times=2)
            else:
                # Something happens that they are not told of, and is then forgotten.
                k8s.fake.create({"kind": "ConfigMap", "metadata": {"name": "x"}} | V1)
                k8s.fake.compact()
            k8s.fake.drop_watches()
            await asyncio.sleep(0.05)
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
            assert k8s.count() == LISTS + WATCHES + WATCHES

    V1 = {"apiVersion": "v1"}
    with cluster() as k8s:
        run(main)


def test_a_version_that_expires_again_and_again_is_a_failure(slow: None) -> None:
    async def main() -> None:
        source = k8s.source()
        k8s.fake.fail(410, "watch", times=100)
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]
            assert "410" in str(await told.fails())
        # At once each may be mended once. From then on a step is one list and one watch at most.
        assert k8s.count() <= LISTS + LISTS + WATCHES + WATCHES
        for _ in range(3):
            assert "410" in str(await failure_of(source.watch()))
        assert k8s.count() <= Counter(dict.fromkeys(LISTS + WATCHES, 2 + 3))
        k8s.fake.clear_faults()
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]

    with cluster() as k8s:
        run(main)


def test_what_went_while_the_server_was_away_is_gone(quick: None) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            assert pods_of(await told.next()) == ["a", "b", "c"]
            await opened(k8s)
            await after_a_second()
            k8s.fake.fail(410, "watch", times=2)
            k8s.fake.drop_watches()
            k8s.fake.delete("endpointslices", "shop", "web-2")
            assert pods_of(await told.next()) == ["a", "b"]

    with cluster() as k8s:
        k8s.pods("c", name="web-2")
        run(main)


# Refusals


@pytest.mark.parametrize(
    ("verb", "resource", "asked"),
    [
        pytest.param("list", "services", {("list", "services"): 1}, id="list services"),
        pytest.param(
            "list",
            "endpointslices",
            {("list", "services"): 1, ("list", "endpointslices"): 1},
            id="list endpointslices",
        ),
    ],
)
def test_rbac(verb: str, resource: str, asked: dict[tuple[str, str], int]) -> None:
    async def main() -> None:
        source = k8s.source()
        error = await failure_of(source.watch())
        assert f"{verb} {resource}" in str(error)
        assert "in namespace shop" in str(error)
        assert "403 Forbidden" in str(error)
        assert "cannot" in str(error)  # The server's own words.
        assert k8s.count() == asked
        k8s.fake.requests.clear()
        await failure_of(source.watch())
        assert all(count == 1 for count in k8s.count().values())
        assert k8s.count()["list", "services"] == (resource == "services")
        k8s.fake.allow(verb, resource)
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]

    with cluster() as k8s:
        k8s.fake.forbid(verb, resource)
        run(main)


@pytest.mark.parametrize("resource", WATCHED)
def test_rbac_of_watches(resource: str) -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]
            assert f"watch {resource}" in str(await told.fails())
        for _ in range(3):
            assert "403" in str(await failure_of(source.watch()))
        assert k8s.count()["watch", resource] == 4
        assert k8s.count() <= LISTS + Counter(dict.fromkeys(WATCHES, 4))

    with cluster() as k8s:
        k8s.fake.forbid("watch", resource)
        run(main)


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(("services",), id="services"),
        pytest.param(("endpointslices",), id="endpointslices"),
        pytest.param(WATCHED, id="both"),
    ],
)
def test_a_server_that_refuses_watches_is_asked_once_a_step(
    refused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            await told.next()
            await told.fails()
        for _ in range(4):
            k8s.fake.requests.clear()
            assert "403" in str(await failure_of(source.watch()))
            assert list(k8s.count().values()) == [1]
        for resource in refused:
            k8s.fake.allow("watch", resource)
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)

    # However busy the machine is.
    monkeypatch.setattr(copy, "TURN", 60)
    with cluster() as k8s:
        for resource in refused:
            k8s.fake.forbid("watch", resource)
        run(main)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_token_that_is_refused_is_named_by_its_file(verb: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with following(source.watch()) as told:
            if verb == "watch":
                await told.next()
            reason = str(await told.fails())
        assert f"{verb} services (only web) in namespace shop, with the token in {file}: 401" in (
            reason
        )
        assert "a-word" not in reason

    file = tmp_path / "token"
    file.write_text("a-word\n")
    with cluster(token="a-word") as k8s:
        source = k8s.source(token_file=file)
        k8s.fake.fail(401, verb, "services")
        run(main)


def test_a_token_is_read_for_each_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            await after_a_second()
            k8s.fake.token = "second"
            token_file.write_text("second\n")
            k8s.fake.end_watches()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
            # The file is late.
            k8s.fake.token = "third"
            k8s.fake.end_watches()
            assert "401 Unauthorized" in str(await told.fails())
        token_file.write_text("third\n")
        k8s.fake.requests.clear()
        k8s.pods("b")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["b"]
        assert k8s.count() - WATCHES == {}

    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    with cluster(token="first") as k8s:
        source = k8s.source(token_file=token_file)
        run(main)


@pytest.mark.parametrize("text", [None, "", "\n", "a\nb", "é"])
def test_no_token(tmp_path: Path, text: str | None) -> None:
    async def main() -> None:
        error = await failure_of(k8s.source(token_file=token_file).watch())
        assert str(token_file) in str(error)
        assert k8s.count() == {}

    token_file = tmp_path / "token"
    if text is not None:
        token_file.write_text(text)
    with cluster() as k8s:
        run(main)


@pytest.mark.parametrize(
    ("status", "retry_after", "asked"),
    [(429, 7, 7.0), (503, 3, 3.0), (500, None, None), (429, 100_000, 300.0)],
)
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_errors(status: int, retry_after: int | None, asked: float | None, verb: str) -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            if verb == "watch":
                await told.next()
            error = await told.fails()
        assert error.retry_after == asked
        assert str(status) in str(error)
        assert "told to fail" in str(error)
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
        assert k8s.count()[verb, "services"] == 2
        assert k8s.count()["list", "endpointslices"] == 1
        assert k8s.count() <= LISTS + LISTS + WATCHES + WATCHES

    with cluster() as k8s:
        k8s.fake.fail(status, verb, "services", retry_after=retry_after)
        run(main)


def test_an_error_within_a_stream() -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.fail_watches(
                KubernetesError(429, "too many", details={"retryAfterSeconds": 4}), "services"
            )
            error = await told.fails()
            assert "too many" in str(error)
            assert error.retry_after == 4
        k8s.fake.requests.clear()
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
        assert k8s.count() == WATCHES

    with cluster() as k8s:
        run(main)


# A server that is away


def test_a_dead_server_is_not_back_for_an_external_name() -> None:
    async def main() -> None:
        source = KubernetesService("db", namespace="shop", url=k8s.server.url, external_name=True)
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["db.example.com:80"]
            await opened(k8s)
            k8s.server.stop()
            await told.fails()
        for _ in range(2):
            assert "no connection" in str(await failure_of(source.watch()))

    with cluster() as k8s:
        k8s.fake.create(service("db", namespace="shop", external_name="db.example.com"))
        run(main)


def test_a_dead_server_is_asked_once_a_step_and_nothing_is_listed_again() -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            await after_a_second()
            k8s.server.stop()
            assert "in namespace shop" in str(await told.fails())
        for _ in range(3):
            assert "in namespace shop" in str(await failure_of(source.watch()))
        k8s.pods("b", "c")
        k8s.fake.requests.clear()
        k8s.server.start()
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["b", "c"]
            await opened(k8s)
            assert k8s.count() == WATCHES

    with cluster() as k8s:
        run(main)


def test_a_server_that_is_back_with_no_news_is_believed_when_it_stays(quick: None) -> None:
    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            first = await told.next()
            await opened(k8s)
            k8s.fake.send_raw(b"garbage\n")
            await told.fails()
        async with following(source.watch()) as told:
            assert await told.is_silent(0.05)
            again = await told.next()
            assert again == first
            assert again.backends[0] is first.backends[0]
            assert await told.is_silent()

    with cluster() as k8s:
        run(main)


def test_a_port_that_refuses() -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=f"http://127.0.0.1:{port}")
        error = await failure_of(source.watch())
        assert str(error).startswith(
            "kubernetes: list services (only web) in namespace shop: "
            f"no connection to http://127.0.0.1:{port}: "
        )

    with refusing_port() as port:
        run(main)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_server_that_does_not_answer(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            if verb == "watch":
                await told.next()
            assert "no answer within 0.2 seconds" in str(await told.fails())

    monkeypatch.setattr(api, "ANSWER_TIMEOUT", 0.2)
    with cluster() as k8s:
        k8s.fake.hang(verb, times=2)
        run(main)
        k8s.fake.release()


def test_a_server_that_says_nothing_of_one_resource_is_heard_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
        k8s.fake.release()

    monkeypatch.setattr(copy, "TURN", 0.05)
    with cluster() as k8s:
        k8s.fake.hang("watch", "services")
        run(main)


def test_a_list_that_breaks_off() -> None:
    async def main() -> None:
        source = k8s.source()
        assert "list endpointslices" in str(await failure_of(source.watch()))
        k8s.fake.requests.clear()
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a", "b"]
            await opened(k8s)
        # What was listed is not listed again.
        assert k8s.count() == WATCHES + Counter({("list", "endpointslices"): 1})

    with cluster() as k8s:
        k8s.fake.cut_off("list", "endpointslices")
        run(main)


def test_a_stream_that_is_not_ended_in_time_is_resumed(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await opened(k8s)
            async with asyncio.timeout(5):
                while k8s.count()["watch", "services"] < 2:
                    await asyncio.sleep(0.01)
            k8s.pods("a")
            assert pods_of(await told.next()) == ["a"]
            assert k8s.count()["list", "services"] == 1

    monkeypatch.setattr(reflector, "STREAM_MARGIN", -239.7)
    monkeypatch.setattr(reflector, "STREAM_SECONDS", (240, 240))
    with cluster() as k8s:
        run(main)


# A server that lies


def with_garbage(k8s: Cluster, data: bytes, *, resource: str = "services") -> DiscoveryError:
    """Have the server send something, see the watch fail of it and the next one go on."""
    errors: list[DiscoveryError] = []

    async def main() -> None:
        source = k8s.source()
        async with following(source.watch()) as told:
            await told.next()
            await opened(k8s)
            k8s.fake.send_raw(data, resource)
            errors.append(await told.fails())
        k8s.fake.requests.clear()
        k8s.pods("a")
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]
            await opened(k8s)
        assert k8s.count() == WATCHES

    run(main)
    return errors[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"<html>busy</html>\n", "no JSON", id="no JSON"),
        pytest.param(b"\xff\xfe\n", "no JSON", id="no UTF-8"),
        pytest.param(b"[" * 100_000 + b"\n", "no JSON", id="deep"),
        pytest.param(b"17\n", "17", id="no object"),
        pytest.param(b"{}\n", "{}", id="nothing in it"),
        pytest.param(b'{"type": "ADDED", "object": null}\n', "ADDED", id="no object in it"),
        pytest.param(b'{"type": "ADDED", "object": {}}\n', "no name", id="no metadata"),
        pytest.param(
            b'{"type": "ADDED", "object": {"metadata": {"name": 7}}}\n', "no name", id="name"
        ),
        pytest.param(
            b'{"type": "MOVED", "object": {"metadata": {"name": "x"}}}\n', "MOVED", id="type"
        ),
        pytest.param(b'{"type": "ERROR", "object": {}}\n', "None", id="empty error"),
    ],
)
def test_garbage(data: bytes, message: str) -> None:
    with cluster() as k8s:
        error = with_garbage(k8s, data)
        assert message in str(error)
        assert len(str(error)) < 500
        assert "\n" not in str(error)


def test_a_line_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MAX_EVENT", 10_000)
    with cluster() as k8s:
        assert "longer than 10000 bytes" in str(with_garbage(k8s, b"x" * 20_000))


class Liar:
    """An API server that always says the same.

    Args:
        listed: What lists are answered with.
        watched: The lines of every watch, which then ends.
    """

    def __init__(self, listed: Any, watched: bytes = b"") -> None:
        self.requests: Counter[str] = Counter()
        self._listed = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
        self._watched = watched

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_watch = "watch" in Request(scope).query_params
        self.requests["watch" if is_watch else "list"] += 1
        if is_watch:
            response: Response = StreamingResponse(iter([self._watched]))
        else:
            response = Response(self._listed, media_type="application/json")
        await response(scope, receive, send)


EMPTY: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "items": []}


def liar_fails(liar: Liar, steps: int = 3) -> str:
    """Watch some steps, each of which must fail. Returns how the last one did."""
    errors: list[DiscoveryError] = []

    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=server.url)
        for _ in range(steps):
            async with following(source.watch()) as told:
                try:
                    while True:
                        await told.next()
                except DiscoveryError as exc:
                    errors.append(exc)

    with serve(liar, lifespan="off") as server:
        run(main)
    return str(errors[-1])


def test_a_server_that_ends_every_stream_is_not_hammered(slow: None) -> None:
    liar = Liar(EMPTY)
    assert "ended the stream at once" in liar_fails(liar, steps=4)
    assert liar.requests["list"] == 2
    # Both once and one of them or both once more at first, then no more than one each a step.
    assert liar.requests["watch"] <= 4 + 3 * 2


def test_a_server_that_says_something_and_ends_every_stream_is_not_hammered(slow: None) -> None:
    event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}
    liar = Liar(EMPTY, json.dumps(event).encode() + b"\n")
    liar_fails(liar, steps=4)
    assert liar.requests["list"] == 2
    assert liar.requests["watch"] <= 4 + 3 * 2


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        pytest.param(b"<html>", "no JSON", id="no JSON"),
        pytest.param([], "no object", id="no object"),
        pytest.param({}, "no list", id="no metadata"),
        pytest.param({"metadata": {}, "items": {}}, "no list", id="items no list"),
        pytest.param({"metadata": {}, "items": [7]}, "no name", id="item no object"),
        pytest.param(
            {"metadata": {"continue": "x"}, "items": []}, "more than 20 pages", id="endless"
        ),
    ],
)
def test_lists_that_are_none(listed: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MAX_PAGES", 20)
    liar = Liar(listed)
    assert message in liar_fails(liar)
    assert liar.requests["watch"] == 0
    assert liar.requests["list"] == (60 if "pages" in message else 3)


def test_an_answer_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_ANSWER", 10_000)
    assert "longer than 10000 bytes" in liar_fails(Liar(b" " * 100_000))


def test_a_watch_that_ends_as_its_streams_begin_leaves_nothing(no_leaks: None) -> None:
    async def main() -> None:
        for number in range(60):
            async with following(k8s.source().watch()) as told:
                await told.next()
                await asyncio.sleep(number * 5e-5)

    with cluster() as k8s:
        run_and_collect(main)


def test_a_watch_ends_while_nobody_answers_it(
    no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> None:
        await anext(source.watch())

    async def main() -> None:
        watch = asyncio.create_task(look())
        connection = await asyncio.to_thread(backend.connection)
        watch.cancel()
        await asyncio.wait([watch])
        assert watch.cancelled()
        assert await asyncio.to_thread(connection.done.wait, 5)

    monkeypatch.setattr(api, "FAREWELL", 0.01)
    with RawBackend(lambda connection: connection.wait_closed()) as backend:
        source = KubernetesService("web", namespace="shop", url=backend.url)
        run_and_collect(main)


def test_a_watch_ends_though_a_stream_does_not_heed_it_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with anyio 4.10, which may lose a cancellation."""
    cancelled: list[object] = []

    async def follow(one: object, api: object, on_open: Callable[[], object]) -> None:
        on_open()
        while cancelled.count(one) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(one)

    async def main() -> None:
        async with following(k8s.source().watch()) as told:
            await told.next()
            await turn()

    monkeypatch.setattr(reflector.Reflector, "follow", follow)
    monkeypatch.setattr(copy, "HEEDING", 0.01)
    with cluster() as k8s:
        run(main)
    assert len(cancelled) == 4


def test_a_server_that_does_not_speak_http() -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=f"http://127.0.0.1:{peer.port}")
        assert "list services" in str(await failure_of(source.watch()))

    with RawBackend(lambda connection: connection.send(b"SSH-2.0-OpenSSH\r\n")) as peer:
        run(main)


@pytest.mark.parametrize(
    "body",
    [b"<html>no upstream</html>", b"[1]", b"", b"x" * 200_000],
    ids=["html", "json", "", "long"],
)
def test_a_refusal_by_something_else_than_an_api_server(body: bytes) -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=server.url)
        error = await failure_of(source.watch())
        assert str(error).endswith("in namespace shop: 502 Bad Gateway")

    with serve(Response(body, status_code=502), lifespan="off") as server:
        run(main)


def test_a_server_that_does_not_know_of_selectors() -> None:
    async def main() -> None:
        source = KubernetesService("web", namespace="shop", url=server.url)
        async with following(source.watch()) as told:
            assert pods_of(await told.next()) == ["a"]

    items = [service("api"), service("web")]
    items += [
        endpoint_slice(name, [endpoint("127.0.1.1", pod=pod)], name=f"{name}-1")
        for name, pod in (("api", "b"), ("web", "a"))
    ]

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        kind = "Service" if scope["path"].endswith("/services") else "EndpointSlice"
        listed = {"metadata": {}, "items": [item for item in items if item["kind"] == kind]}
        await Liar(listed)(scope, receive, send)

    with serve(either, lifespan="off") as server:
        run(main)


def test_a_server_without_versions_is_listed_again() -> None:
    liar = Liar({"metadata": {}, "items": []})
    liar_fails(liar, steps=1)
    assert liar.requests["list"] >= 3
