"""ingress-nginx's annotations. It reads them from the Ingress; here they are the Service's.

What has no effect on affinity is none of our business and passed over in silence: there are a
hundred of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from .findings import Entry, Findings
from .values import to_bool, to_max_age, to_same_site, to_text

_PREFIX = "nginx.ingress.kubernetes.io/"
_DEFAULT_NAME = "INGRESSCOOKIE"


def _to_sticky(text: str) -> bool:
    if text != "cookie":
        raise ValueError('must be "cookie"')
    return True


def _to_lifetime(text: str) -> int:
    seconds = to_max_age(text)
    if seconds is None:
        raise ValueError("browsers would forget the cookie at once, and no visitor would be kept")
    return seconds


def _refuse_condition(text: str) -> None:
    if to_bool(text):
        raise ValueError("SameSite is the same for every browser")


def _refuse_to_stay(text: str) -> None:
    if not to_bool(text):
        raise ValueError(
            "a visitor whose pod fails goes to another one; with sticky-asgi/on-lost: "
            '"reject", to none'
        )


def _to_mode(text: str) -> None:
    if text not in ("balanced", "persistent"):
        raise ValueError("must be balanced or persistent")


_EXPIRES = "session-cookie-expires"
_MODE = "affinity-mode"
_NAMES: Mapping[str, Entry] = {
    "affinity": ("sticky", _to_sticky),
    _MODE: ("", _to_mode),
    "session-cookie-name": ("name", to_text),
    "session-cookie-secure": ("secure", to_bool),
    "session-cookie-path": ("path", to_text),
    "session-cookie-domain": ("domain", to_text),
    "session-cookie-samesite": ("same_site", to_same_site),
    "session-cookie-max-age": ("max_age", _to_lifetime),
    _EXPIRES: ("expires", _to_lifetime),
    "session-cookie-conditional-samesite-none": ("", _refuse_condition),
    "session-cookie-change-on-failure": ("", _refuse_to_stay),
}
_CANARY = "affinity-canary-behavior"


def read_ingress_nginx(annotations: Mapping[str, str]) -> Findings:
    """What `nginx.ingress.kubernetes.io/…` says of affinity."""
    findings = Findings(annotations)
    for key in sorted(annotations):
        name = key.removeprefix(_PREFIX)
        if name == key:
            continue
        if name in _NAMES:
            findings.read(key, *_NAMES[name])
        elif name == _CANARY:
            findings.note(key, "not read: there are no canaries here")
        elif name.startswith(("affinity", "session-cookie")):
            findings.unknown(key, name, tuple(_NAMES))
    if annotations.get(_PREFIX + _MODE) == "balanced":
        findings.note(_PREFIX + _MODE, "as persistent: no visitor moves when pods are added")
    # Both are sent there, and browsers then go by Max-Age.
    expires = findings.claims.pop("expires", None)
    if expires is not None:
        findings.claims.setdefault("max_age", expires)
    findings.warn_without_switch(_PREFIX + 'affinity: "cookie"')
    if findings.is_sticky:
        findings.defaults["name"] = _DEFAULT_NAME
    return findings
