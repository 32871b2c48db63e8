"""What is asked for, under which path, and how many bytes must come back."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Payload:
    """One kind of request: `sent` bytes go up to `path`, `received` bytes come back.

    With `is_unique`, each request has a header field that no other has.
    """

    path: str
    received: int
    sent: int = 0
    is_unique: bool = False

    @property
    def method(self) -> str:
        """POST where something is sent."""
        return "POST" if self.sent else "GET"


SMALL = Payload("/100b", received=100)
UNIQUE = Payload("/100b", received=100, is_unique=True)
MEDIUM = Payload("/10k", received=10 * KIB)
LARGE = Payload("/1m", received=MIB)
HUGE = Payload("/200m", received=200 * MIB)
UPLOAD = Payload("/upload", received=100, sent=64 * KIB)
