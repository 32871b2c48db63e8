"""Tables in Markdown, and the part of a page that is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .processes import BenchmarkError
from .results import Series, Verdict

BEGIN = "<!-- made by `make bench`: begin -->"
END = "<!-- made by `make bench`: end -->"


def number(value: float) -> str:
    """A figure with three digits that count, or all that stand before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose columns are as wide as they must be: first so many of text, then figures."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if position < texts else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 1) + ("-" if position < texts else ":")
        for position, width in enumerate(widths)
    )
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])


def series_table(series: Series, titles: Mapping[str, str]) -> str:
    """The figures of one series, one subject to a line."""
    head = ["", f"{series.unit}, median", "lowest", "highest"]
    compare = series.compare
    if compare is not None:
        head.append(f"{titles.get(compare, compare)} is")
    rows = []
    for subject in series.subjects:
        values = series.values(subject)
        figures = (series.median(subject), min(values), max(values))
        row = [titles.get(subject, subject), *map(number, figures)]
        if compare is not None:
            ratio = "" if subject == compare else f"{number(series.ratio(compare, subject))} ×"
            row.append(ratio)
        rows.append(row)
    return table(head, rows)


def verdict_table(verdicts: Sequence[Verdict], titles: Mapping[str, str]) -> str:
    """The targets, each beside what was measured and whether it holds."""
    rows = []
    for verdict in verdicts:
        target = verdict.target
        if target.reference is None:
            unit, of = f" {verdict.series.unit}", ""
        else:
            unit, of = " ×", titles.get(target.reference, target.reference)
        rows.append(
            [
                verdict.series.title,
                titles.get(target.subject, target.subject),
                of,
                f"{target.at_most:g}{unit}",
                f"{number(verdict.measured)}{unit}",
                "yes" if verdict.holds else "**no**",
            ]
        )
    return table(["case", "subject", "beside", "at most", "measured", "holds"], rows, texts=3)


def replace_part(text: str, part: str) -> str:
    """A page's text with another part between the two marks. Raises BenchmarkError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{after}"


def check_page(page: Path) -> None:
    """Raises BenchmarkError if a page has no place for the tables: better now than at the end."""
    try:
        replace_part(page.read_text(encoding="utf-8"), "")
    except OSError as exc:
        raise BenchmarkError(str(exc)) from exc


def rewrite(page: Path, part: str) -> None:
    """Put another part between the two marks of a page."""
    page.write_text(replace_part(page.read_text(encoding="utf-8"), part), encoding="utf-8")
