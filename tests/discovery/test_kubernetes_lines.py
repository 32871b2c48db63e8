"""How a stream is taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi.discovery.kubernetes.lines import LineSplitter


def split(*pieces: bytes, limit: int = 1000) -> list[bytes]:
    splitter = LineSplitter(limit)
    return [line for piece in pieces for line in splitter.feed(piece)]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        pytest.param([b"a\nb\n"], [b"a", b"b"], id="two at once"),
        pytest.param([b"a", b"b", b"\nc"], [b"ab"], id="in pieces, the last is not whole"),
        pytest.param([b"a\n", b"\n", b" \r\n", b"b\n"], [b"a", b"b"], id="blank lines"),
        pytest.param([b"a\x85b\n"], [b"a\x85b"], id="U+0085 in Latin-1"),
        pytest.param(["a\u0085b\u2028c\n".encode()], ["a\u0085b\u2028c".encode()], id="U+0085"),
        pytest.param([b"a\rb\x0bc\x0cd\x1ce\n"], [b"a\rb\x0bc\x0cd\x1ce"], id="other line ends"),
    ],
)
def test_lines(pieces: list[bytes], lines: list[bytes]) -> None:
    assert split(*pieces) == lines


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip())),
       st.data())  # fmt: skip
def test_however_it_is_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert split(*pieces) == lines


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 11 + b"\n"], [b"x" * 6, b"x" * 6]])
def test_a_line_that_never_ends(pieces: list[bytes]) -> None:
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        split(*pieces, limit=10)
    assert split(b"x" * 10, b"\n", limit=10) == [b"x" * 10]
