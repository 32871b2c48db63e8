"""A cookie's name and attributes: what browsers take, and how it is written (RFC 6265)."""

from __future__ import annotations

import hashlib
import re
from typing import Literal, TypeAlias

SameSite: TypeAlias = Literal["lax", "strict", "none"]

# RFC 6265 §4.1.1: cookie-name = token; the path is av-octets, and needs no spaces.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ATTRIBUTE_VALUE = re.compile(r"[!-:<-~]+")
# RFC 6265 §5.1.3, §5.2.3: a visitor's host ends with it, or the browser takes no cookie at all.
_DOMAIN = re.compile(r"\.?[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63})*")
# "~" sets off the hash in a derived name, so no plain pool name can look like one with a hash.
_NOT_PLAIN = re.compile(r"[^!#$%&'*+\-.^_`|0-9A-Za-z]")


def derive_name(pool_name: str) -> str:
    """The name of the cookie of a pool."""
    plain = _NOT_PLAIN.sub("_", pool_name)
    if plain != pool_name:
        plain += "~" + hashlib.sha256(pool_name.encode()).hexdigest()[:8]
    return f"sticky_{plain}"


def check_attributes(
    name: str | None, path: str, domain: str | None, same_site: SameSite | None
) -> None:
    """Raises ValueError or TypeError for what no browser would take, and names it."""
    for parameter, value in (("name", name), ("path", path), ("domain", domain)):
        if not isinstance(value, str) and (value is not None or parameter == "path"):
            raise TypeError(f"{parameter} must be a string, got {value!r}")
    if name is not None and not _TOKEN.fullmatch(name):
        raise ValueError(f"name must be a token (RFC 6265 §4.1.1), got {name!r}")
    if not (path.startswith("/") and _ATTRIBUTE_VALUE.fullmatch(path)):
        raise ValueError(
            f"path must begin with '/' and hold no space, ';' or control, got {path!r}"
        )
    if domain is not None and not _DOMAIN.fullmatch(domain):
        raise ValueError(f"domain must be a host name in ASCII without port, got {domain!r}")
    if same_site not in ("lax", "strict", "none", None):
        raise ValueError(f"same_site must be 'lax', 'strict', 'none' or None, got {same_site!r}")


def read_secure(
    secure: bool | Literal["auto"],
    name: str | None,
    path: str,
    domain: str | None,
    same_site: SameSite | None,
    partitioned: bool,
) -> bool | None:
    """Whether cookies are always Secure (True), never (False), or as the request (None).

    Raises:
        ValueError: Browsers would refuse such a cookie.
    """
    if not (isinstance(secure, bool) or secure == "auto"):
        raise ValueError(f"secure must be True, False or 'auto', got {secure!r}")
    prefix = "" if name is None else name.lower()  # browsers ignore the prefixes' case
    if prefix.startswith("__host-") and (domain is not None or path != "/"):
        raise ValueError(
            f"name {name!r} needs path '/' and no domain, got path {path!r}, domain {domain!r}"
        )
    reason = None
    if same_site == "none":
        reason = "same_site='none'"
    elif partitioned:
        reason = "partitioned=True"
    elif prefix.startswith(("__host-", "__secure-")):
        reason = f"name {name!r}"
    if reason and secure is False:
        raise ValueError(f"secure=False: with {reason}, browsers would refuse the cookie")
    if secure == "auto":
        return True if reason else None
    return secure


def written(
    path: str, domain: str | None, max_age: int | None, same_site: SameSite | None
) -> bytes:
    """These attributes, as they stand in Set-Cookie."""
    text = f"; Path={path}"
    if domain is not None:
        text += f"; Domain={domain}"
    if max_age is not None:
        text += f"; Max-Age={max_age}"
    if same_site is not None:
        text += f"; SameSite={same_site.capitalize()}"
    return text.encode("ascii")
