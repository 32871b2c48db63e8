"""Gateway API's words for sticky sessions, `sessionPersistence`, as settings of our cookie.

Only the translation is here; where the block comes from is known to those who read it: the
configuration file, and the annotations of a Service.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from .settings import CookieSettings

#: GEP-2257: what an API server takes for a duration, a part of what Go does.
DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"

_DURATION = re.compile(DURATION_PATTERN.rstrip("$"))
_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}

_KEYS = (
    "type",
    "sessionName",
    "absoluteTimeout",
    "idleTimeout",
    "cookie",
    "cookieConfig",
    "header",
    "headerConfig",
)
_COOKIE_KEYS = ("name", "path", "lifetimeType")


def read_session_persistence(block: Mapping[str, Any]) -> CookieSettings:
    """The settings of a cookie that a `sessionPersistence` block of Gateway API asks for.

    `type: Cookie` (default) with `cookie.name`, `cookie.path` (`/`) and `cookie.lifetimeType`;
    `sessionName` and `cookieConfig`, as older versions of Gateway API have them; `absoluteTimeout`
    and `idleTimeout`, such as `1h30m`. `lifetimeType: Session` (default) sends no Max-Age and
    leaves `absoluteTimeout` to the gateway; `Permanent` needs it, and sends it as Max-Age too. A
    key that is null counts as left out.

    SameSite is `strict`, as GEP-1619 recommends. HttpOnly is our default anyway. Secure stays our
    `"auto"`: over plain http a browser would drop the cookie, and every visit would be the first.

    Raises:
        ValueError: What does not fit the schema, by its key; or `type: Header`, which this version
            does not have.

    Source: GEP-1619 and GEP-2257.
    """
    given = _known("", block, _KEYS)
    _check_type(given)
    cookie = _cookie_of(given)
    absolute = _seconds("absoluteTimeout", given.get("absoluteTimeout"))
    lifetime = _choice("cookie.lifetimeType", cookie.get("lifetimeType"), "Session", "Permanent")
    if lifetime == "Permanent" and absolute is None:
        raise ValueError("lifetimeType 'Permanent' needs an absoluteTimeout")
    return CookieSettings(
        name=_name_of(given, cookie),
        path=_text("cookie.path", cookie.get("path")),
        same_site="strict",
        # A cookie that is kept for longer than its session does no harm.
        max_age=math.ceil(absolute) if absolute and lifetime == "Permanent" else None,
        idle_timeout=_seconds("idleTimeout", given.get("idleTimeout")),
        absolute_timeout=absolute,
    )


def read_duration(key: str, value: object) -> float:
    """Seconds of a duration such as `1h30m`.

    Raises:
        ValueError: It is none, or none at all long.
    """
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"{key} must be a duration such as 90s or 1h30m, got {_shown(value)}")
    milliseconds = sum(
        int(number) * round(_SECONDS[unit] * 1000) for number, unit in _PART.findall(value)
    )
    if not milliseconds:
        raise ValueError(f"{key} must be longer than {value}: leave it out for no limit")
    seconds = milliseconds / 1000
    return int(seconds) if seconds.is_integer() else seconds


def _check_type(given: Mapping[str, Any]) -> None:
    kind = _choice("type", given.get("type"), "Cookie", "Header")
    if kind == "Header":
        raise ValueError("type 'Header' is not part of this version: 'Cookie' is")
    for key in ("header", "headerConfig"):
        if key in given:
            raise ValueError(f"{key} goes with type 'Header', which is not part of this version")


def _cookie_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    if "cookie" in given and "cookieConfig" in given:
        raise ValueError("cookieConfig is the older word for cookie: one of them, not both")
    if "cookieConfig" in given:
        return _known("cookieConfig", given["cookieConfig"], ("lifetimeType",))
    return _known("cookie", given.get("cookie", {}), _COOKIE_KEYS)


def _name_of(given: Mapping[str, Any], cookie: Mapping[str, Any]) -> str | None:
    name = _text("cookie.name", cookie.get("name"))
    older = _text("sessionName", given.get("sessionName"))
    if name is not None and older is not None and name != older:
        raise ValueError(f"sessionName is the older word for cookie.name, which is {name!r}")
    return older if name is None else name


def _known(where: str, block: object, keys: tuple[str, ...]) -> dict[str, Any]:
    """The keys that say something, once it is clear that there are no others."""
    if not isinstance(block, Mapping):
        raise ValueError(f"{where or 'sessionPersistence'} must be a mapping, got {_shown(block)}")
    for key in block:
        if key not in keys:
            full = f"{where}.{key}" if where else f"{key}"
            close = get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(keys)}"
            raise ValueError(f"{full!r} is an unknown key; {hint}")
    return {key: value for key, value in block.items() if value is not None}


def _choice(key: str, value: object, default: str, other: str) -> str:
    if value is None or value == default:
        return default
    if value != other:
        raise ValueError(f"{key} must be {default!r} or {other!r}, got {_shown(value)}")
    return other


def _text(key: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{key} must be text, got {_shown(value)}")


def _shown(value: object) -> str:
    # A list may be written out for ever where YAML's aliases stand in it.
    return repr(value) if isinstance(value, str | int | float) else type(value).__name__


def _seconds(key: str, value: object) -> float | None:
    return None if value is None else read_duration(key, value)
