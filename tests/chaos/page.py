"""The part of a page that a run has written."""

from __future__ import annotations

from pathlib import Path

from .gateway import ChaosError

BEGIN = "<!-- made by `make chaos`: begin -->"
END = "<!-- made by `make chaos`: end -->"


def replace_part(text: str, part: str) -> str:
    """A page's text with another part between the two marks. Raises ChaosError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ChaosError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{after}"


def rewrite(page: Path, part: str | None) -> None:
    """Put another part between the marks; with None, find out whether that will do."""
    try:
        text = page.read_text(encoding="utf-8")
        changed = replace_part(text, part or "")
        if part is not None:
            page.write_text(changed, encoding="utf-8")
    except OSError as exc:
        raise ChaosError(str(exc)) from exc
