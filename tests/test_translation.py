"""docs/translation.md: what each row of its tables says is what happens.

A table is tested by the heads of its columns. `annotations` are those of a Service, one in each
pair of backticks, with what stands in the head before them; `YAML` is what follows `affinity:` in a
configuration file, `sessionPersistence` the same in its own words, `Python` an expression. All of
them must come to the same, and `cookie` is what a visitor then gets from a gateway. `says` is what
else is read of the annotations. There is a warning where the last column has the word.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from starlette.responses import PlainTextResponse

from sticky_asgi import Affinity, Backend, Gateway, Pool, SignedCookie, config
from sticky_asgi.discovery.kubernetes.annotations import Reading, read_annotations

from .servers import ROOT

PAGE = ROOT / "docs" / "translation.md"
SECRET = "the-secret-of-the-translations"

_CODE = re.compile(r"`([^`]*)`")


class Row(NamedTuple):
    """One row, by the heads of its columns."""

    section: str
    line: int
    cells: Mapping[str, str]
    prefix: str

    def codes(self, head: str) -> list[str]:
        """What stands in backticks in a column."""
        return _CODE.findall(self.cells.get(head, ""))

    @property
    def annotations(self) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for code in self.codes("annotations"):
            pairs |= yaml.safe_load(f"{{{json.dumps(self.prefix + code.partition(': ')[0])}: "
                                    f"{_quoted(code.partition(': ')[2])}}}")  # fmt: skip
        return pairs

    @property
    def has_warning(self) -> bool:
        return "warning" in self.cells.get("what differs", "")


def _quoted(value: str) -> str:
    return value if value.startswith('"') else json.dumps(value)


def rows() -> Iterator[Row]:
    section, heads, prefix = "", None, ""
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            section = line.strip("# ")
        if not line.startswith("|"):
            heads = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if heads is None:
            prefix = next((_CODE.findall(c)[0] for c in cells if _CODE.search(c)), "")
            heads = [cell.partition(",")[0] for cell in cells]
        elif not set(line) <= set("|-"):
            assert len(cells) == len(heads), number
            yield Row(section, number, dict(zip(heads, cells, strict=True)), prefix)


ROWS = list(rows())
OF_COOKIES = [
    pytest.param(row, id=f"{row.section}-{row.line}") for row in ROWS if "cookie" in row.cells
]
OF_OTHERS = [pytest.param(row, id=f"line-{row.line}") for row in ROWS if "says" in row.cells]


def from_annotations(annotations: Mapping[str, str]) -> SignedCookie | None:
    settings = read_annotations(annotations).affinity
    return None if settings is None else SignedCookie(SECRET, **settings.given())


def from_yaml(text: str) -> Affinity | None:
    document = f"pools: {{shop: {{backends: ['http://127.0.0.1:1'], affinity: {text}}}}}"
    return config.parse(document, environ={}).make_pools()["shop"].affinity


def forms(row: Row) -> list[Affinity | None]:
    """What the row says, in all the ways in which it does."""
    made: list[Affinity | None] = [from_yaml(text) for text in row.codes("YAML")]
    if row.annotations:
        made.append(from_annotations(row.annotations))
    names = {"SignedCookie": SignedCookie, "secret": SECRET}
    made += [eval(text, names) for text in row.codes("Python")]
    for text in row.codes("sessionPersistence"):
        key = "sticky-asgi/session-persistence"
        made += [
            from_yaml(f"{{session_persistence: {text}}}"),
            from_annotations({key: text}),
            from_annotations({key: json.dumps(yaml.safe_load(text))}),
        ]
    return made


def set_cookies(affinity: Affinity | None) -> list[str]:
    """The cookies that a gateway sends to a new visitor, without the values."""
    backend = Backend(app=PlainTextResponse("hello"), id="a")
    gateway = Gateway({"/": Pool("shop", [backend], affinity=affinity)})

    async def visit() -> httpx.Response:
        transport = httpx.ASGITransport(gateway)
        async with gateway, httpx.AsyncClient(transport=transport) as visitor:
            return await visitor.get("http://shop.example.org/")

    answer = asyncio.run(visit())
    assert answer.text == "hello"
    return [
        re.sub(r"=[^;]*", "=…", line, count=1) for line in answer.headers.get_list("set-cookie")
    ]


def beyond_the_cookie(affinity: Affinity | None) -> Sequence[Any]:
    if not isinstance(affinity, SignedCookie):
        return [affinity]
    return [affinity.idle_timeout, affinity.absolute_timeout, affinity.on_lost]


def test_the_tables_are_found() -> None:
    sections = {row.section for row in ROWS}
    assert sections == {
        "In our own words",
        "Traefik 1.x",
        "Traefik 2 and 3",
        "ingress-nginx",
        "Gateway API",
        "nginx",
        "HAProxy",
        "Several at once",
        "What else a Service says",
    }
    assert len(OF_COOKIES) + len(OF_OTHERS) == len(ROWS) > 90


@pytest.mark.parametrize("row", OF_COOKIES)
def test_a_row_gives_its_cookie(row: Row) -> None:
    expected = row.codes("cookie")
    assert expected or row.cells["cookie"] == "none"
    made = forms(row)
    assert made
    assert [set_cookies(affinity) for affinity in made] == [expected] * len(made)
    others = [beyond_the_cookie(affinity) for affinity in made]
    assert others == [others[0]] * len(made)
    assert bool(read_annotations(row.annotations).warnings) == row.has_warning


@pytest.mark.parametrize("row", OF_OTHERS)
def test_a_row_is_read_as_it_says(row: Row) -> None:
    (says,) = row.codes("says")
    reading = asdict(read_annotations(row.annotations))
    reading["routes"] = list(reading["routes"])
    warnings, _ = reading.pop("warnings"), reading.pop("notes")
    assert bool(warnings) == row.has_warning
    unsaid = asdict(Reading())
    assert {key: value for key, value in reading.items() if value not in (unsaid[key], [])} == (
        yaml.safe_load(says)
    )
