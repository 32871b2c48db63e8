"""Durations and sizes as people write them: `250ms`, `30m`, `64KiB`."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-zµ]*)")

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

#: Other words for the units, so that a mistake can be answered with the right form.
_MEANT_SECONDS = {
    "ms": ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
_MEANT_BYTES = {
    "": ("b", "byte", "bytes"),
    "KiB": ("kib", "ki", "k", "kb"),
    "MiB": ("mib", "mi", "m", "mb"),
    "GiB": ("gib", "gi", "g", "gb"),
}

DURATION_PATTERN = r"^[0-9]{1,18}(\.[0-9]{1,18})?\s*(ms|s|m|h|d)?$"
SIZE_PATTERN = r"^[0-9]{1,18}\s*(KiB|MiB|GiB)?$"


def parse_duration(value: object) -> float:
    """Seconds of a duration: a number, or a number and one of `ms`, `s`, `m`, `h` and `d`.

    Raises:
        ValueError: It is none. The message says how to write it, where that can be guessed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    number, unit = _split(value)
    if number is None:
        raise ValueError("must be a duration such as 250ms, 5s, 30m, 12h or 1d")
    if not unit:
        return _plain(number)
    if unit not in _SECONDS:
        raise ValueError(_hint(value, number, unit, _MEANT_SECONDS, "ms, s, m, h or d"))
    seconds = float(number) * _SECONDS[unit]
    return int(seconds) if seconds.is_integer() else seconds


def parse_size(value: object) -> int:
    """Bytes of a size: a whole number, or one and `KiB`, `MiB` or `GiB`.

    Raises:
        ValueError: It is none. The message says how to write it, where that can be guessed.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number, unit = _split(value)
    if number is None or "." in number:
        raise ValueError("must be a size such as 65536, 64KiB, 10MiB or 1GiB, a whole number")
    if not unit:
        return int(number)
    if unit not in _BYTES:
        raise ValueError(_hint(value, number, unit, _MEANT_BYTES, "KiB, MiB or GiB"))
    return int(number) * _BYTES[unit]


def _split(value: object) -> tuple[str | None, str]:
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    return (None, "") if match is None else (match[1], match[2])


def _plain(number: str) -> float:
    return float(number) if "." in number else int(number)


def _hint(
    value: object, number: str, unit: str, meant: dict[str, tuple[str, ...]], units: str
) -> str:
    for right, words in meant.items():
        if unit.lower() in words:
            return f"{value!r} has an unknown unit; write {number}{right}"
    return f"{value!r} has an unknown unit; the units are {units}"
