"""Active checks: what a backend is asked, and what its answer means."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal, TypeAlias

from ..backend import Backend
from ..checks import is_amount, is_int, is_token
from ..request import RawHeaders
from .drain_wish import drain_wish

#: A check of the user's own: says whether a backend passed. An exception means that it failed.
UserCheck: TypeAlias = Callable[[Backend], Awaitable[bool]]

_PART = re.compile(r"\s*([0-9]{3})\s*(?:-\s*([0-9]{3})\s*)?")
_PATH = re.compile(r"/[!-~]*")
_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff\t]*")
_HTTP_OPTIONS = ("path", "method", "headers", "host", "expect", "contains", "drain_on_404")
#: What frames a message or belongs to the connection (RFC 9110 §7.6.1), or has its own option.
_RESERVED = frozenset({"host", "content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check came to.

    Attributes:
        passed: Whether the backend can be used.
        reason: Why, for the operator's log.
        drains: Whether it wants no new sessions; None if a check of its kind cannot tell.
    """

    passed: bool
    reason: str
    drains: bool | None = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How backends are asked whether they can be used. Times are in seconds.

    By default a check is an HTTP request, which passes when a whole response with an expected
    status arrives in time. Redirects are not followed. Checks use the transport and the TLS of
    the pool, on connections of their own, and none of a backend's `max_requests`.

    Args:
        path: What is asked for, with its query. Default `/`.
        method: Request method. Default `GET`.
        headers: Request headers besides Host. Default none.
        host: The Host header. Default None: the backend's own `host:port`.
        expect: Statuses that pass, as in `"200-399"` (the default) or `"200,204"`.
        contains: Text that the first 64 KiB of the body must contain, in UTF-8. Default None: any
            body passes.
        tcp: True: only connect (with TLS for `https` backends), ask for nothing. Default False.
        check: A coroutine function that is given the `Backend` and returns True or False; an
            exception counts as failed. One that goes on when it is cancelled after `timeout` is not
            called again for that backend, which counts as failed, until it ends. Default None.
        interval: Between the beginnings of two checks of a backend. Default 5.
        down_interval: The same while it is unhealthy. Default None: a fifth of `interval`.
        jitter: Share by which intervals vary at random, lest several gateways fall into step.
            Default 0.1.
        timeout: Within which a check must have passed. Default 2.
        rise: Checks in a row that must pass until an unhealthy backend is healthy. Default 2.
        fall: Checks in a row that must fail until a healthy one is unhealthy. Default 3. The very
            first check of a backend decides alone, as with HAProxy.
        initial: What a backend counts as before its first check: `"unknown"` (default) may be
            used, `"unhealthy"` may not.
        drain_on_404: Whether 404 passes and means "no new sessions" (HAProxy's
            `disable-on-404`). Default False. The response header `Sticky-Drain: 1` always means it.

    Raises:
        ValueError: A value out of range, or options that do not go together.
    """

    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    host: str | None = None
    expect: str = "200-399"
    contains: str | None = None
    tcp: bool = False
    check: UserCheck | None = None
    interval: float = 5.0
    down_interval: float | None = None
    jitter: float = 0.1
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    initial: Literal["unknown", "unhealthy"] = "unknown"
    drain_on_404: bool = False

    def __post_init__(self) -> None:
        self._check_request()
        self._check_answer()
        self._check_times()
        for name in ("tcp", "drain_on_404"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.check is not None and not callable(self.check):
            raise ValueError(f"check must be a coroutine function or None, got {self.check!r}")
        self._check_kind()

    def _check_request(self) -> None:
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            raise ValueError(f"path must begin with / and be printable ASCII, got {self.path!r}")
        if not is_token(self.method):
            raise ValueError(f"method must be a request method, got {self.method!r}")
        if self.host is not None and (
            not isinstance(self.host, str) or not re.fullmatch(r"[!-~]+", self.host)
        ):
            raise ValueError(f"host must be a host name or None, got {self.host!r}")
        object.__setattr__(self, "headers", _pairs(self.headers))

    def _check_answer(self) -> None:
        statuses_of(self.expect)
        if self.contains is not None and (not isinstance(self.contains, str) or not self.contains):
            raise ValueError(f"contains must be a text or None, got {self.contains!r}")
        if self.contains is not None and self.method == "HEAD":
            raise ValueError(f"contains {self.contains!r} is pointless with method 'HEAD'")
        if self.initial not in ("unknown", "unhealthy"):
            raise ValueError(f"initial must be 'unknown' or 'unhealthy', got {self.initial!r}")

    def _check_times(self) -> None:
        for name in ("interval", "down_interval", "timeout"):
            value = getattr(self, name)
            if name == "down_interval" and value is None:
                continue
            if not (is_amount(value) and value > 0):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        if not is_amount(self.jitter) or self.jitter > 1:
            raise ValueError(f"jitter must be a number from 0 to 1, got {self.jitter!r}")
        for name in ("rise", "fall"):
            value = getattr(self, name)
            if not is_int(value) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")

    def _check_kind(self) -> None:
        if self.tcp and self.check is not None:
            raise ValueError(f"check {self.check!r} is pointless with tcp=True")
        if not self.tcp and self.check is None:
            return
        other = "tcp=True" if self.tcp else "a check of your own"
        defaults = {field.name: field.default for field in fields(self)}
        for name in _HTTP_OPTIONS:
            value = getattr(self, name)
            if value != defaults[name]:
                raise ValueError(f"{name} {value!r} is pointless with {other}")

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """`headers` as pairs of name and value."""
        return _pairs(self.headers)

    def judge(self, status: int, headers: RawHeaders, body: bytes) -> CheckResult:
        """What a whole response means.

        Args:
            status: Its status.
            headers: Its header section, names in lower case.
            body: The beginning of its body.
        """
        drains = drain_wish(headers) is True
        if status == 404 and self.drain_on_404:
            return CheckResult(True, "status 404 on the check", True)
        if status not in statuses_of(self.expect):
            return CheckResult(False, f"status {status}, not {self.expect}")
        if self.contains is not None and self.contains.encode() not in body:
            return CheckResult(False, f"{self.contains!r} is not in the body")
        return CheckResult(True, f"status {status}", drains)

    def pause(self, *, is_down: bool, chance: float) -> float:
        """Seconds until a backend's next check.

        Args:
            is_down: Whether it is unhealthy.
            chance: A random number from 0 to 1.
        """
        pause = self.interval
        if is_down:
            pause = pause / 5 if self.down_interval is None else self.down_interval
        return pause * (1 + self.jitter * (2 * chance - 1))


@cache
def statuses_of(expect: str) -> frozenset[int]:
    """The statuses that a text such as `200-299,304` names. Raises ValueError."""
    message = f"expect must be statuses such as '200-399' or '200,204', got {expect!r}"
    if not isinstance(expect, str):
        raise ValueError(message)
    statuses: set[int] = set()
    for part in expect.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(message)
        first, last = int(match[1]), int(match[2] or match[1])
        if not 200 <= first <= last <= 599:
            raise ValueError(message)
        statuses.update(range(first, last + 1))
    return frozenset(statuses)


def _pairs(
    headers: Mapping[str, str] | Sequence[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    try:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        found = tuple((name, value) for name, value in pairs)
    except (TypeError, ValueError):
        raise ValueError(f"headers must be a mapping of names to values, got {headers!r}") from None
    for name, value in found:
        if not is_token(name) or name.lower() in _RESERVED:
            raise ValueError(f"headers must have names of header fields, got {name!r}")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(f"headers must have values of one line, got {value!r}")
    return found
