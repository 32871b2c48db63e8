"""What is collected while annotations are read: what they say, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

#: Reads an annotation's value: None if it says nothing, ValueError with what it should have been.
Parse: TypeAlias = Callable[[str], object]
#: What an annotation says something of, and how it is read.
Entry: TypeAlias = tuple[str, Parse]

#: Browsers ignore an attribute of a cookie that is longer (RFC 6265bis §5.6).
MAX_TEXT = 1024
#: The longest name of an annotation, behind its prefix.
MAX_NAME = 64
_HINTED = 10
#: A sentence about a value shows no more of it.
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Remark:
    """Something an operator should know of an annotation.

    Args:
        key: The annotation, in full.
        value: What it is set to.
        message: What is wrong with it, what is done instead, and where there is one, the remedy.
        is_heeded: Whether what it says is in force all the same. Default False.
    """

    key: str
    value: str
    message: str
    is_heeded: bool = False

    def __str__(self) -> str:
        shown = self.value if len(self.value) <= _SHOWN else self.value[:_SHOWN] + "…"
        key = self.key if self.key.isprintable() else repr(self.key)
        return f"{key}={shown!r}: {self.message}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A value that an annotation gives to a setting.

    Args:
        value: The value.
        key: The annotation; None for what its vocabulary takes for granted.
    """

    value: Any
    key: str | None = None


class Findings:
    """What one vocabulary's annotations say.

    Args:
        texts: Annotations by key.

    Attributes:
        claims: What is said of a setting. Settings are those of `CookieSettings`, and `sticky`,
            `scheme`, `host`, `route_paths`, `route_hosts` and `strip_prefix`.
        unreadable: Settings that something is said of, but nothing that can be read.
        defaults: What the vocabulary takes for granted where nothing is said.
        warnings: What an operator should change.
        notes: What is different here, and does no harm.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.claims: dict[str, Claim] = {}
        self.unreadable: set[str] = set()
        self.defaults: dict[str, Any] = {}
        self.warnings: list[Remark] = []
        self.notes: list[Remark] = []

    def read(self, key: str, setting: str, parse: Parse) -> bool:
        """Take an annotation's value for a setting; one that cannot be read counts as absent.

        Returns:
            Whether it could be read.
        """
        text = self.texts[key]
        try:
            if len(text) > MAX_TEXT:
                raise ValueError(f"longer than {MAX_TEXT} characters")
            value = parse(text)
        except ValueError as exc:
            self.warn(key, f"ignored: {exc}")
            self.unreadable.add(setting)
            return False
        if value is not None:
            self.claim(setting, value, key)
        return True

    def claim(self, setting: str, value: object, key: str) -> None:
        """What an annotation says of a setting; of two that disagree, the first one counts."""
        first = self.claims.setdefault(setting, Claim(value, key))
        if first.value != value:
            self.warn(key, f"ignored: {first.key} says otherwise and comes first")

    def warn(self, key: str, message: str, *, is_heeded: bool = False) -> None:
        """Tell the operator."""
        self.warnings.append(Remark(key, self.texts[key], message, is_heeded))

    def note(self, key: str, message: str) -> None:
        """Tell whoever looks for the details."""
        self.notes.append(Remark(key, self.texts[key], message))

    def unknown(self, key: str, name: str, names: Sequence[str]) -> None:
        """Warn of a key that is none of the vocabulary's."""
        # A thousand of them are no slips of the pen, and looking for the right word takes its time.
        few = len(self.warnings) < _HINTED and len(name) < MAX_NAME
        close = get_close_matches(name, names, n=1, cutoff=0.8) if few else []
        hint = f"; did you mean {key.removesuffix(name) + close[0]!r}?" if close else ""
        self.warn(key, f"ignored: not known here{hint}")

    def warn_without_switch(self, switch: str) -> None:
        """Warn of everything that has no effect because nothing switches affinity on."""
        if "sticky" not in self.claims:
            for claim in self.claims.values():
                if claim.key is not None:
                    self.warn(claim.key, f"ignored: without {switch}, there is no cookie")

    @property
    def is_sticky(self) -> bool:
        """Whether the vocabulary asks for affinity."""
        claim = self.claims.get("sticky")
        return claim is not None and claim.value is True
