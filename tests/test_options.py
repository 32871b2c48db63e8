"""Options say at construction what is wrong with them: the parameter and the value."""

from __future__ import annotations

import math
import ssl
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from sticky_asgi import TLS, Limits, Timeouts, WebSocketOptions

from .conftest import Authority

NO_NUMBERS: list[Any] = [True, "5", math.nan, math.inf, -math.inf, b"5", [5]]
TIMES = ["connect", "response", "idle", "keep_alive"]


def bad(names: list[str], values: list[Any]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}-{value!r}") for name in names for value in values]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *bad(TIMES, [*NO_NUMBERS, -1, -0.001]),
        *bad(["connect", "response", "idle"], [0, 0.0]),
        *bad(["keep_alive"], [None]),
    ],
)
def test_timeouts_refuse(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Timeouts(**{name: value})
    assert str(caught.value).startswith(f"{name} must be")
    assert str(caught.value).endswith(f"got {value!r}")


def test_timeouts_accept() -> None:
    assert Timeouts() == Timeouts(connect=5, response=60, idle=None, keep_alive=4)
    assert Timeouts(connect=None, response=None, keep_alive=0).connect is None
    assert Timeouts(connect=1, idle=0.001).idle == 0.001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *bad(["queue", "max_body", "queue_timeout"], [*NO_NUMBERS, -1]),
        *bad(["queue", "max_body"], [1.5]),
        *bad(["queue", "queue_timeout"], [None]),
        *bad(["queue_timeout"], [0]),
    ],
)
def test_limits_refuse(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Limits(**{name: value})
    assert name in str(caught.value)
    assert str(caught.value).endswith(f"got {value!r}")


def test_limits_accept() -> None:
    assert Limits() == Limits(queue=100, queue_timeout=5, max_body=None)
    assert Limits(queue=0, queue_timeout=0.5, max_body=0).queue == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *bad(
            ["max_message", "ping_interval", "ping_timeout", "close_timeout"],
            [*NO_NUMBERS, -1, 0],
        ),
        *bad(["max_message"], [1.5]),
        *bad(["close_timeout"], [None]),
    ],
)
def test_websocket_options_refuse(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        WebSocketOptions(**{name: value})
    assert str(caught.value).startswith(f"{name} must be")
    assert str(caught.value).endswith(f"got {value!r}")


def test_websocket_options_accept() -> None:
    assert WebSocketOptions() == WebSocketOptions(
        max_message=16 << 20, ping_interval=20, ping_timeout=20, close_timeout=10
    )
    none = WebSocketOptions(max_message=None, ping_interval=None, ping_timeout=None)
    assert (none.max_message, none.ping_interval, none.ping_timeout) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"client_key": "k.pem"}, "client_key 'k.pem' needs a", id="key-alone"),
        pytest.param({"ca_file": "c.pem", "verify": False}, "ca_file 'c.pem' is", id="pointless"),
        pytest.param({"verify": "false"}, "verify must .* got 'false'", id="verify-word"),
        pytest.param({"verify": 0}, "verify must .* got 0", id="verify-number"),
        pytest.param({"verify": None}, "verify must .* got None", id="verify-none"),
        pytest.param({"server_name": ""}, "server_name must .* got ''", id="no-name"),
        pytest.param({"ca_file": ""}, "ca_file must .* got ''", id="no-file"),
    ],
)
def test_tls_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TLS(**options)


@pytest.mark.parametrize("name", ["ca_file", "client_cert", "client_key", "server_name"])
def test_tls_refuses_other_types(name: str) -> None:
    options: dict[str, Any] = {"client_cert": "c.pem", name: 5}
    with pytest.raises(TypeError, match=f"^{name} must be str .*or None, got 5$"):
        TLS(**options)


def test_tls_context_verifies_unless_told_otherwise(authority: Authority) -> None:
    context = TLS(ca_file=authority.ca_file).create_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    context = TLS(verify=False).create_context()
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_tls_context_takes_a_client_certificate(authority: Authority) -> None:
    TLS(client_cert=authority.cert_file, client_key=authority.key_file).create_context()


@pytest.mark.parametrize("name", ["ca_file", "client_cert"])
def test_tls_files_are_read_when_the_context_is_made(name: str, tmp_path: Path) -> None:
    tls = TLS(**{name: tmp_path / "absent.pem"})  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        tls.create_context()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(Timeouts(), "connect", id="timeouts"),
        pytest.param(Limits(), "queue", id="limits"),
        pytest.param(WebSocketOptions(), "max_message", id="websocket"),
        pytest.param(TLS(), "verify", id="tls"),
    ],
)
def test_options_are_frozen(options: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(options, name, 1)
    with pytest.raises(TypeError):
        type(options)(1)
