"""How annotations write values: what `Findings.read` takes."""

from __future__ import annotations

import re

from .findings import Parse

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def to_bool(text: str) -> bool:
    """As Go's `strconv.ParseBool`, which all of these systems use."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError('must be "true" or "false"')


def to_text(text: str) -> str | None:
    """Whatever is there."""
    return text or None


def to_same_site(text: str) -> str | None:
    """`none`, `lax` or `strict`, in any case."""
    if text.lower() not in ("none", "lax", "strict", ""):
        raise ValueError('must be "none", "lax" or "strict"')
    return text.lower() or None


def to_max_age(text: str) -> int | None:
    """Whole seconds; 0 is a cookie that ends with the browser, as one that says nothing."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("must be a whole number of seconds")
    seconds = int(text)
    if seconds < 0:
        raise ValueError("browsers would forget the cookie at once, and no visitor would be kept")
    return seconds or None


def refused(reason: str) -> Parse:
    """Reads nothing: what the annotation is for is to be had otherwise, or not at all."""

    def refuse(text: str) -> None:
        raise ValueError(reason)

    return refuse
