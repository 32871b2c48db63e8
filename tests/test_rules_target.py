"""Rules 9 and 10 over real sockets: what target a backend gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sticky_asgi import Gateway, GatewayMiddleware, Route
from tests import apps
from tests.gateways import Front, Lane, gateway_before
from tests.servers import HttpImplementation, encode_request

#: Targets that URL libraries like to improve.
TARGETS = [
    pytest.param(b"/a%2Fb%2fc", id="escaped-slash"),
    pytest.param(b"/a/../b/./c/..", id="dots"),
    pytest.param(b"/%2e%2E/a", id="escaped-dots"),
    pytest.param(b"/%e4%FF", id="not-utf-8"),
    pytest.param(b"/%C3%A4", id="utf-8"),
    pytest.param(b"/%41%7Eb", id="needlessly-escaped"),
    pytest.param(b"/%00%0d%0a", id="escaped-controls"),
    pytest.param(b"/%zz%4%", id="broken-escapes"),
    pytest.param(b"/a;v=1;w=2/b;c", id="semicolons"),
    pytest.param(b"//a//b//", id="slashes"),
    pytest.param(b"//host:80/a", id="looks-like-an-authority"),
    pytest.param(b"/http://host/a", id="holds-a-url"),
    pytest.param(b"/a|{}^`\"<>\\[]'", id="not-in-a-uri"),
    pytest.param(b"/a+b%20c", id="plus-and-space"),
    pytest.param(b"/x?a=%2F&&b=%e4;c+d&a=1&=&", id="query"),
    pytest.param(b"/x??a?b=/../", id="question-marks"),
    pytest.param(b"/x?" + b"a=1&" * 4000, id="16-kilobytes"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_rule_9_the_target_arrives_byte_for_byte(front: Front, target: bytes) -> None:
    assert front.received("GET", target).target == target


def test_rule_9_what_uvicorn_loses_is_lost(front: Front) -> None:
    """An empty query leaves no trace in uvicorn's scope. A fragment, which no client should send,
    survives h11 only."""
    assert front.received("GET", b"/x?").target == b"/x"
    fragment = b"#y" if front.http == "h11" else b""
    assert front.received("GET", b"/x#y").target == b"/x" + fragment


def test_rule_9_the_target_is_quoted_where_a_server_gives_no_raw_path(lane: Lane) -> None:
    def without_raw_path(gateway: Gateway) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            poor = {key: value for key, value in scope.items() if key != "raw_path"}
            await gateway(poor, receive, send)

        return app

    with gateway_before(lane=lane, wrap=without_raw_path) as front:
        request = front.received("GET", b"/%c3%a4%20b;v=1,%3F/x@y:z?q=%2F")
        assert request.target == b"/%C3%A4%20b;v=1,%3F/x@y:z?q=%2F"
        assert front.received("OPTIONS", b"*").target == b"*"


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/a b", id="space"),
        pytest.param(b"/a\tb", id="tab"),
        pytest.param(b"/a\x01b", id="control"),
        pytest.param(b"/a\x7fb", id="delete"),
        pytest.param(b"/a\rb", id="carriage-return"),
        pytest.param(b"/\xe4", id="not-ascii"),
        pytest.param(b"/?\xe4", id="query-not-ascii"),
        pytest.param(b"*", id="asterisk"),
        pytest.param(b"x", id="relative"),
        pytest.param(b"other:80", id="authority"),
    ],
)
def test_rule_10_other_targets_are_refused(front: Front, target: bytes) -> None:
    front.assert_refused(encode_request("GET", target), 400)


@pytest.mark.parametrize("target", [b"http://other/x?y", b"https://other/x?y"])
def test_rule_10_the_absolute_form(front: Front, target: bytes) -> None:
    """400 with h11. httptools takes scheme and authority off before anybody sees them: the rest
    goes where any request goes, under the Host header the client sent."""
    if front.http == "h11":
        front.assert_refused(encode_request("GET", target), 400)
    else:
        request = front.received("GET", target)
        assert (request.target, request.get(b"host")) == (b"/x?y", b"test")


def test_rule_10_options_asterisk_is_passed(front: Front) -> None:
    request = front.received("OPTIONS", b"*")
    assert (request.method, request.target) == ("OPTIONS", b"*")


@pytest.mark.parametrize("target", [b"test:80", b"/", b"/x"])
def test_rule_10_connect_is_refused(front: Front, target: bytes) -> None:
    front.assert_refused(encode_request("CONNECT", target), 400)


@pytest.mark.parametrize("method", ["PROPFIND", "PATCH", "TRACE", "M-SEARCH"])
def test_other_methods_are_passed(front: Front, method: str) -> None:
    assert front.received(method, b"/x").method == method


# Root paths and prefixes


def test_rule_10_the_root_path_of_the_server_is_stripped(
    http: HttpImplementation, lane: Lane
) -> None:
    """uvicorn puts its --root-path before what the client sent; the backend sees the latter."""
    with gateway_before(http=http, lane=lane, server={"root_path": "/outer"}) as front:
        for target in (b"/", b"/x%2Fy?q=1", b"/outer/x", b"//x"):
            assert front.received("GET", target).target == target


def mounted(*paths: str) -> Callable[[Gateway], ASGIApp]:
    """Puts a gateway into a Starlette application, which starts it in its own lifespan."""

    def wrap(gateway: Gateway) -> ASGIApp:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with gateway:
                yield

        return Starlette(routes=[Mount(path, gateway) for path in paths], lifespan=lifespan)

    return wrap


def test_rule_10_a_mount_path_is_stripped(http: HttpImplementation, lane: Lane) -> None:
    paths = ("/app", "/my app", "/ä", "/{tenant}/in")
    with gateway_before(http=http, lane=lane, wrap=mounted(*paths)) as front:
        for target, expected in (
            (b"/app/a%2Fb/../c?q=%e4", b"/a%2Fb/../c?q=%e4"),
            (b"/app/", b"/"),
            (b"/app//x", b"//x"),
            (b"/%61%70p/%61", b"/%61"),
            (b"/my%20app/x%20y", b"/x%20y"),
            (b"/%c3%A4/%c3%A4", b"/%c3%A4"),
            (b"/t%2B1/in/x", b"/x"),
        ):
            assert front.received("GET", target).target == expected


def test_rule_10_root_path_mount_path_and_prefix_are_stripped_together(
    http: HttpImplementation, lane: Lane
) -> None:
    with gateway_before(
        http=http,
        lane=lane,
        wrap=mounted("/app"),
        server={"root_path": "/outer"},
        route=lambda pool: [Route(pool, path="/api", strip_prefix=True)],
    ) as front:
        request = front.received("GET", b"/app/api/x%2Fy?q")
        assert request.target == b"/x%2Fy?q"
        assert request.get(b"x-forwarded-prefix") == b"/api"


def test_rule_10_a_prefix_is_stripped_and_told_to_the_backend(
    http: HttpImplementation, lane: Lane
) -> None:
    """One that cannot be cut off is refused: decoded, `/api%2Fx` is below `/api`, but what is left
    of it would be no path."""
    with gateway_before(
        http=http, lane=lane, route=lambda pool: [Route(pool, path="/api", strip_prefix=True)]
    ) as front:
        for target, expected in (
            (b"/api/a%2Fb?q=1", b"/a%2Fb?q=1"),
            (b"/api", b"/"),
            (b"/api?q=1", b"/?q=1"),
            (b"/%61pi/x", b"/x"),
        ):
            request = front.received("GET", target, [(b"X-Forwarded-Prefix", b"/forged")])
            assert request.target == expected
            assert request.get(b"x-forwarded-prefix") == b"/api"
        front.assert_refused(encode_request("GET", b"/api%2Fx"), 400)


def test_rule_10_a_prefix_stays_by_default(http: HttpImplementation, lane: Lane) -> None:
    with gateway_before(
        http=http, lane=lane, route=lambda pool: [Route(pool, path="/api")]
    ) as front:
        request = front.received("GET", b"/%61pi/x")
        assert request.target == b"/%61pi/x"
        assert request.get(b"x-forwarded-prefix") is None
        assert front.request("GET", b"/apix").status == 404


def test_dots_in_a_target_do_not_cross_from_one_route_to_another(http: HttpImplementation) -> None:
    """The route is chosen by the path as it stands; no dots are resolved on either side."""
    with gateway_before(
        http=http,
        wrap=lambda gateway: GatewayMiddleware(apps.hello("local"), pools=gateway.routes),
        route=lambda pool: [Route(pool, path="/public")],
    ) as front:
        assert front.received("GET", b"/public/../x").target == b"/public/../x"
        assert front.request("GET", b"/x/../public/y").body == b"local"
