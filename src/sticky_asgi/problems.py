"""Mistakes in files, in the words of the file: where they are, and what was perhaps meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    Args:
        file: Name of the file.
        line: Line in it, from 1; None if the file could not be read.
        key: The key, such as `pools.shop.backends[0].url`; empty for the file as a whole.
        message: What is wrong, and what would be right.
    """

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        key = f" {self.key}:" if self.key else ""
        return f"{self.file}{line}:{key} {self.message}"


def dotted(path: KeyPath) -> str:
    """`pools.shop.backends[0].url`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def nearest(word: str, words: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or what there is to choose from."""
    close = get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; one of {', '.join(words)}"


def blame(exc: Exception, keys: Collection[str]) -> tuple[str | None, str]:
    """The key that an object's error is about, if one is, and what is wrong in a file's words.

    The objects' errors begin with the parameter's name, which is the key's.
    """
    message = str(exc).removeprefix("backend ")
    for word, file_word in (("None", "null"), ("True", "true"), ("False", "false")):
        message = re.sub(rf"\b{word}\b", file_word, message)
    name = re.match(r"[A-Za-z_]*", message)
    key = name[0] if name and name[0] in keys else None
    return key, message.removeprefix(f"{key} ").removeprefix(f"{key}: ")
