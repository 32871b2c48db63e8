"""Whether arguments are what they should be: what several constructors ask."""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2


def is_token(value: object) -> TypeGuard[str]:
    """Whether it is what methods, header names and cookie names are made of."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is an integer; a bool is one to Python, and a mistake here."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether it is an integer of at least 0."""
    return is_int(value) and value >= 0


def is_amount(value: object) -> bool:
    """Whether it is a finite number of at least 0."""
    return (is_int(value) or isinstance(value, float)) and 0 <= value < math.inf


def check_type(name: str, value: object, *allowed: type | None) -> None:
    """Raises TypeError unless the value is of one of the types; None allows None."""
    types = tuple(cls for cls in allowed if cls is not None)
    if not (isinstance(value, types) or (value is None and None in allowed)):
        words = " or ".join("None" if cls is None else cls.__name__ for cls in allowed)
        raise TypeError(f"{name} must be {words}, got {value!r}")


def check_object(name: str, value: Any, *methods: str) -> None:
    """Raises TypeError unless the value is None or an object with these methods."""
    if value is None:
        return
    for method in methods:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            hint = f"; did you mean {value.__name__}(...)?" if isinstance(value, type) else ""
            raise TypeError(f"{name} must be an object with {method}(), got {value!r}{hint}")
