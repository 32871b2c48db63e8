"""Traefik's annotations on a Service, from version 2.2 on.

Keys are case-insensitive. Traefik creates no route at all for a Service with an unknown or
unreadable key; here the others keep their effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .findings import Entry, Findings
from .traefik_name import to_name, warn_of_name
from .values import refused, to_bool, to_max_age, to_same_site, to_text

_PREFIX = "traefik.ingress.kubernetes.io/"
_SERVICE = "service."


def _to_scheme(text: str) -> str | None:
    if text.lower() == "h2c":
        raise ValueError("HTTP/2 without TLS is not part of this version: http or https")
    if text not in ("http", "https", ""):
        raise ValueError("must be http or https")
    return text or None


def _to_host(text: str) -> str:
    return "pass" if to_bool(text) else "backend"


def _refuse_address(text: str) -> None:
    if to_bool(text):
        raise ValueError("pods are asked directly; behind one address no visitor could be kept")


_COOKIE: Mapping[str, Entry] = {
    "sticky.cookie.name": ("name", to_name),
    "sticky.cookie.secure": ("secure", to_bool),
    "sticky.cookie.httponly": ("http_only", to_bool),
    "sticky.cookie.samesite": ("same_site", to_same_site),
    "sticky.cookie.maxage": ("max_age", to_max_age),
    "sticky.cookie.path": ("path", to_text),
    "sticky.cookie.domain": ("domain", to_text),
}
_OTHER: Mapping[str, Entry] = {
    "serversscheme": ("scheme", _to_scheme),
    "passhostheader": ("host", _to_host),
    "nativelb": ("", _refuse_address),
    "nodeportlb": ("", _refuse_address),
    "serverstransport": ("", refused("what to expect of TLS is said by the pool's tls")),
    "middlewares": ("", refused("there are none here")),
}
_SWITCH = "sticky.cookie"
_ABOVE = "sticky"


def read_traefik_v2(annotations: Mapping[str, str]) -> Findings:
    """What `traefik.ingress.kubernetes.io/service.…` says."""
    findings = Findings(annotations)
    on: list[str] = []
    off: list[str] = []
    for name, key in _keys_of(annotations):
        if name in (_SWITCH, _ABOVE):
            is_on = _is_on(findings, key)
            if is_on and name == _ABOVE:
                continue  # Says that the cookie may be on, not that it is.
            (on if is_on else off).append(key)
        elif name in _COOKIE:
            if findings.read(key, *_COOKIE[name]):
                on.append(key)
        elif name in _OTHER:
            findings.read(key, *_OTHER[name])
        else:
            findings.unknown(key, name, (*_COOKIE, *_OTHER, _SWITCH))
    if on or off:
        # What is off takes everything below with it.
        findings.claim("sticky", not off, (off or on)[0])
    warn_of_name(findings)
    return findings


def _keys_of(annotations: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Names as they are known here, with their annotations, in an order that stays the same."""
    names = ((key.removeprefix(_PREFIX), key) for key in annotations if key.startswith(_PREFIX))
    return sorted(
        (name[len(_SERVICE) :].lower(), key)
        for name, key in names
        if name[: len(_SERVICE)].lower() == _SERVICE
    )


def _is_on(findings: Findings, key: str) -> bool:
    text = findings.texts[key].lower()
    if text not in ("true", "false", ""):
        findings.warn(key, 'neither "true" nor empty, which means off in Traefik')
    return text in ("true", "")
