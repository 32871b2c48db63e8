"""Our own annotations: every setting of the cookie, and what a Service may say besides.

Setting any of the cookie's alone makes the Service sticky, as with Traefik. Only here are timeouts
of the session, what happens to lost visitors, and routes.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....routes import Route
from ....units import parse_duration
from .findings import Entry, Findings, Parse
from .values import to_bool

PREFIX = "sticky-asgi/"
SESSION_PERSISTENCE = "session-persistence"
#: Each path makes a route with each host.
_MAX_ITEMS = 16


def _one_of(*words: str) -> Parse:
    def choose(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}")
        return text

    return choose


def _to_secure(text: str) -> bool | None:
    return None if text == "auto" else to_bool(text)


def _to_list(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if len(items) > _MAX_ITEMS:
        raise ValueError(f"more than {_MAX_ITEMS} of them")
    return list(dict.fromkeys(items))


def _to_paths(text: str) -> tuple[str, ...]:
    return tuple(Route(None, path=path).path for path in _to_list(text))


def _to_hosts(text: str) -> tuple[str | None, ...]:
    return tuple(Route(None, host=host).host for host in _to_list(text))


_COOKIE: Mapping[str, Entry] = {
    "cookie-name": ("name", str),
    "cookie-path": ("path", str),
    "cookie-domain": ("domain", str),
    "cookie-secure": ("secure", _to_secure),
    "cookie-http-only": ("http_only", to_bool),
    "cookie-same-site": ("same_site", _one_of("lax", "strict", "none")),
    "cookie-partitioned": ("partitioned", to_bool),
    "cookie-max-age": ("max_age", parse_duration),
    "idle-timeout": ("idle_timeout", parse_duration),
    "absolute-timeout": ("absolute_timeout", parse_duration),
    "on-lost": ("on_lost", _one_of("rebalance", "reject")),
}
_OTHER: Mapping[str, Entry] = {
    "affinity": ("sticky", to_bool),
    "scheme": ("scheme", _one_of("http", "https")),
    "host-header": ("host", _one_of("pass", "backend")),
    "path": ("route_paths", _to_paths),
    "host": ("route_hosts", _to_hosts),
    "strip-prefix": ("strip_prefix", to_bool),
}


def read_own(annotations: Mapping[str, str]) -> Findings:
    """What `sticky-asgi/…` says, but for `session-persistence`."""
    findings = Findings(annotations)
    for key in sorted(annotations):
        name = key.removeprefix(PREFIX)
        if name in (key, SESSION_PERSISTENCE):
            continue
        if name not in _COOKIE and name not in _OTHER:
            findings.unknown(key, name, (*_COOKIE, *_OTHER, SESSION_PERSISTENCE))
            continue
        findings.read(key, *(_COOKIE.get(name) or _OTHER[name]))
    for name, (setting, _) in _COOKIE.items():
        if setting in findings.claims and "sticky" not in findings.claims:
            findings.claim("sticky", True, PREFIX + name)
    return findings
