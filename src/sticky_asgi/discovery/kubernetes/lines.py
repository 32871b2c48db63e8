"""Takes a stream apart into lines. A line ends with a line feed and with nothing else.

What Python and httpx call lines ends at U+0085 and its like as well, which Go leaves as they are
within JSON: one such letter in an annotation would cut an event in two.
"""

from __future__ import annotations


class LineSplitter:
    """Collects pieces of a stream until they are lines.

    Args:
        limit: Bytes that a line may have at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece. Returns the lines that it ends, without their line feeds.

        Raises:
            ValueError: A line is longer than it may be.
        """
        *ends, rest = piece.split(b"\n")
        lines = []
        if ends:
            ends[0] = bytes(self._rest) + ends[0]
            self._rest.clear()
            lines = [line for line in ends if line.strip()]
        self._rest += rest
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise ValueError(f"a line is longer than {self._limit} bytes")
        return lines
