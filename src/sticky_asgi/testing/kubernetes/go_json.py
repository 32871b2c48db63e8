"""JSON as Kubernetes writes it, byte for byte: that of Go's `encoding/json`."""

from __future__ import annotations

import json
from typing import Any

#: Go escapes what HTML or JavaScript would stumble over, and nothing else beyond ASCII's control
#: characters: U+0085, a line's end to many, stands as it is.
_ESCAPES = str.maketrans(
    {char: f"\\u{ord(char):04x}" for char in ("<", ">", "&", "\u2028", "\u2029")}
)


def encode(value: Any) -> bytes:
    """One line of JSON, its newline included."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES).encode() + b"\n"


def clone(value: Any) -> Any:
    """A copy that shares nothing with the original.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be str, got {key!r}")
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clone(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"JSON has no {type(value).__name__}: {value!r}")
