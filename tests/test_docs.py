"""The documentation does what it says: its code runs, its links lead somewhere, nothing is missing.

In README.md and docs/*.md, the ```python blocks of a page are one program and run in order; a block
marked `python no-run` is left out. A ```yaml block is a whole configuration file unless it is
marked `yaml fragment`.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import uvicorn

import sticky_asgi
from sticky_asgi import Gateway, Pool, config, discovery, uvicorn_http

from .apps import hello
from .servers import ROOT, serve

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_LINKS = [*PAGES, ROOT / "CHANGELOG.md"]
SECRET = "the-secret-of-the-documentation"
TIMEOUT = 60.0

_FENCE = re.compile(r"^(`{3,})([^`]*)$")
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block: what it is marked with, the number of its first line, and its lines."""

    info: str
    line: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def blocks_of(page: Path) -> Iterator[Block]:
    block: Block | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if block is not None and fence is not None and not fence[2]:
            yield block
            block = None
        elif block is not None:
            block.lines.append(line)
        elif fence is not None:
            block = Block(fence[2].strip(), number + 1, [])
    assert block is None, f"{page.name}: a block is not closed"


def prose_of(page: Path) -> str:
    """A page without its blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def program_of(page: Path) -> str:
    """The page's Python, each line at the number it has in the page."""
    lines: list[str] = []
    for block in blocks_of(page):
        if block.info == "python":
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.lines
    return "\n".join(lines) + "\n" if lines else ""


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Path) else None


WITH_PYTHON = [page for page in PAGES if program_of(page)]
YAML = [
    pytest.param(block.text, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in blocks_of(page)
    if block.info == "yaml"
]


def test_the_pages_are_found() -> None:
    names = {page.name for page in WITH_PYTHON}
    assert {"README.md", "quickstart.md", "affinity.md", "pools.md"} <= names


def test_blocks_are_marked_with_something_known() -> None:
    known = {"python", "python no-run", "yaml", "yaml fragment", "sh", "text", "json", ""}
    unknown = [
        f"{page.name}:{block.line}: {block.info}"
        for page in PAGES
        for block in blocks_of(page)
        if block.info not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    script = tmp_path / f"{page.stem}.py"
    script.write_text(program_of(page), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "STICKY_SECRET": SECRET},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("text", YAML)
def test_yaml_is_a_valid_configuration(text: str, tmp_path: Path) -> None:
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)", text), SECRET)
    config.parse(text, environ=environ, folder=tmp_path)


def test_the_readme_example_keeps_visitors_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STICKY_SECRET", SECRET)
    page = ROOT / "README.md"
    namespace: dict[str, object] = {}
    exec(compile(program_of(page), str(page), "exec"), namespace)
    app, shop = namespace["app"], namespace["shop"]
    assert callable(app)
    assert isinstance(shop, sticky_asgi.Pool)
    with serve(hello("one")) as one, serve(hello("two")) as two, serve(app) as gateway:
        shop.replace([f"http://127.0.0.1:{server.port}" for server in (one, two)])
        url = f"http://127.0.0.1:{gateway.port}"
        with (
            httpx.Client(base_url=url, trust_env=False) as ada,
            httpx.Client(base_url=url, trust_env=False) as bob,
        ):
            hers, his = ada.get("/").text, bob.get("/").text
            assert {hers, his} == {"one", "two"}
            assert [ada.get("/").text for _ in range(3)] == [hers] * 3
            assert [bob.get("/").text for _ in range(3)] == [his] * 3
            # FastAPI's own 404: the path was left to the application inside.
            assert ada.get("/local/nothing").json() == {"detail": "Not Found"}


# Links


def slug(heading: str) -> str:
    """The anchor that a heading gets where Markdown is rendered."""
    plain = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)}


def links_of(page: Path) -> list[str]:
    links: list[str] = _LINK.findall(prose_of(page))
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(links_of(index))


# Completeness


@pytest.mark.parametrize("name", sticky_asgi.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize("name", discovery.__all__)
def test_every_source_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "discovery.md").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", text)
    assert (getattr(discovery, name).__doc__ or "").strip()


@pytest.mark.parametrize("section", sorted(config.json_schema()["$defs"]))
def test_every_key_of_the_file_is_documented(section: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = config.json_schema()["$defs"][section]["properties"]
    missing = [key for key in keys if not re.search(rf"`[\w.]*\b{key}\b", text)]
    assert missing == []


def public_objects() -> Iterator[tuple[str, object]]:
    for name in sticky_asgi.__all__:
        value = getattr(sticky_asgi, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue  # A type alias has no docstring of its own.
        yield name, value
        for member, item in vars(value).items() if inspect.isclass(value) else ():
            if not member.startswith("_") and (inspect.isfunction(item) or _is_property(item)):
                yield f"{name}.{member}", item


def _is_property(item: object) -> bool:
    return isinstance(item, property | classmethod | staticmethod)


def test_every_public_name_has_a_docstring() -> None:
    # A dataclass without one is given its signature.
    without = [
        name
        for name, value in public_objects()
        if not (value.__doc__ or "").strip() or (value.__doc__ or "").startswith(f"{name}(")
    ]
    assert without == []


def test_the_error_table_tells_the_tree() -> None:
    text = (ROOT / "docs" / "exceptions.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    errors = {
        name: value
        for name in sticky_asgi.__all__
        if inspect.isclass(value := getattr(sticky_asgi, name))
        and issubclass(value, sticky_asgi.GatewayError)
    }
    assert {row[0] for row in cells} == set(errors)
    for name, parent, side, stage, status in cells:
        error = errors[name]
        assert error.__bases__[0].__name__ == parent, name
        assert (error.side, error.stage) == (side, stage), name
        if name != "UnwantedStatus":
            assert error.status_code == int(status), name


@pytest.mark.parametrize("name", ["H11Protocol", "HttpToolsProtocol"])
def test_uvicorn_finds_its_http_protocols_by_name(name: str) -> None:
    settings = uvicorn.Config(
        Gateway({"/": Pool("shop", [])}), http=f"sticky_asgi.uvicorn_http:{name}"
    )
    settings.load()
    assert settings.http_protocol_class is getattr(uvicorn_http, name)
