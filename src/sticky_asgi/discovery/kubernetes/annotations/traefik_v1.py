"""Traefik's annotations on a Service, versions 1.x: those the project began with.

A key is looked up as `ingress.kubernetes.io/…`, as `traefik.ingress.kubernetes.io/…`, and as what
it was called before 1.5, which was a label once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .findings import Entry, Findings
from .traefik_name import to_name, warn_of_name
from .values import refused, to_bool, to_same_site

_PREFIX = "ingress.kubernetes.io/"
_TRAEFIK = "traefik." + _PREFIX

#: The name that Traefik gives to the cookie of its oldest annotation.
_OLDEST_NAME = "_TRAEFIK_BACKEND"


def _to_old_bool(text: str) -> bool:
    return text.strip().lower() == "true"


_NAMES: Mapping[str, Entry] = {
    "affinity": ("sticky", to_bool),
    "session-cookie-name": ("name", to_name),
    "session-secure": ("secure", to_bool),
    "session-http-only": ("http_only", to_bool),
    "session-same-site": ("same_site", to_same_site),
    "max-conn-amount": ("", refused("requests in flight are limited by a backend's max_requests")),
    "max-conn-extractor-func": ("", refused("there is no limit per visitor")),
    "circuit-breaker-expression": ("", refused("backends that fail are seen to by ejection")),
    "buffering": ("", refused("what may be kept for a repeat is said by retry.replay_limit")),
    "responseforwarding-flushinterval": ("", refused("responses are passed on as they come")),
}
_METHOD = "load-balancer-method"
_LEGACY_NAMES: Mapping[str, str] = {
    "traefik.backend.loadbalancer.stickiness": "affinity",
    "traefik.backend.loadbalancer.stickiness.cookieName": "session-cookie-name",
    "traefik.backend.loadbalancer.method": _METHOD,
    "traefik.backend.circuitbreaker": "circuit-breaker-expression",
}
_OLDEST = "traefik.backend.loadbalancer.sticky"


def read_traefik_v1(annotations: Mapping[str, str], labels: Mapping[str, str]) -> Findings:
    """What Traefik 1.x reads of a Service."""
    findings = Findings(_texts(annotations, labels))
    for name, key in _keys_of(findings):
        if name == _METHOD:
            findings.note(key, "not read: who gets a new visitor is said by the pool's balancer")
        else:
            findings.read(key, *_NAMES[name])
    if _OLDEST in findings.texts:
        _read_oldest(findings)
    findings.warn_without_switch(_TRAEFIK + 'affinity: "true"')
    warn_of_name(findings)
    return findings


def _texts(annotations: Mapping[str, str], labels: Mapping[str, str]) -> Mapping[str, str]:
    known = (*_LEGACY_NAMES, _OLDEST)
    return {key: labels[key] for key in known if key in labels} | dict(annotations)


def _keys_of(findings: Findings) -> Iterator[tuple[str, str]]:
    """Names as they are known here, with their annotations; who comes first counts."""
    texts = findings.texts
    for prefix in (_PREFIX, _TRAEFIK):
        for key in sorted(texts):
            name = key.removeprefix(prefix)
            if name == key:
                continue
            if name in _NAMES or name == _METHOD:
                yield name, key
            # Others use the short prefix too, and newer Traefiks the long one.
            elif prefix == _TRAEFIK and name.partition(".")[0].lower() not in ("service", "router"):
                findings.unknown(key, name, tuple(_NAMES))
    for key, name in _LEGACY_NAMES.items():
        if key in texts:
            yield name, key


def _read_oldest(findings: Findings) -> None:
    findings.read(_OLDEST, "sticky", _to_old_bool)
    findings.warn(_OLDEST, f'out of date: write {_TRAEFIK}affinity: "true"', is_heeded=True)
    claim = findings.claims.get("sticky")
    if claim is not None and claim.key == _OLDEST:
        findings.defaults["name"] = _OLDEST_NAME
