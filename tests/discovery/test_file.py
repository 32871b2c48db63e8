"""Pools whose backends are listed in a file: real files, and the system's own word of changes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky_asgi import DiscoveryError, Intent
from sticky_asgi.discovery import File
from sticky_asgi.discovery.file_list import parse
from sticky_asgi.snapshot import Discovery, Snapshot
from tests.loops import run

#: So long that nothing is found by looking: what is found was told.
NEVER = 1000.0

Snapshots = AsyncGenerator[Snapshot, None]


def watch(source: Discovery) -> AbstractAsyncContextManager[Snapshots]:
    return aclosing(cast(Snapshots, source.watch()))


def ids(snapshot: Snapshot) -> list[str]:
    return [backend.id for backend in snapshot.backends]


def replace(file: Path, text: str) -> None:
    """In one step, as it should be done."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture(params=["yaml", "json"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"backends.{request.param}"


# What it may hold


def test_a_list_of_urls_and_mappings() -> None:
    text = """
    - http://10.0.0.1:8000
    - url: http+unix:///run/app.sock
    - {url: "https://10.0.0.2", id: b, weight: 2.5, max_requests: 7, priority: 1}
    """
    snapshot = parse(text.encode(), "b.yaml")
    assert ids(snapshot) == ["10.0.0.1:8000", "/run/app.sock", "b"]
    last = snapshot.backends[-1]
    assert (last.url, last.weight, last.max_requests, last.priority) == (
        "https://10.0.0.2",
        2.5,
        7,
        1,
    )
    assert snapshot.intents == {}
    assert snapshot.affinity is None


@pytest.mark.parametrize("is_json", [True, False])
def test_intents_zone_and_metadata(is_json: bool) -> None:
    items = [
        {"url": "http://a", "drain": True, "zone": "eu-1"},
        {"url": "http://b", "down": True, "metadata": {"rack": 7, "zone": "x"}, "zone": "eu-2"},
        {"url": "http://c", "down": True, "drain": True, "id": "c"},
        {"url": "http://d", "down": False, "drain": False, "zone": None, "metadata": None},
    ]
    snapshot = parse(json.dumps(items).encode(), "b", is_json=is_json)
    assert snapshot.intents == {
        "a:80": Intent.DRAINING,
        "b:80": Intent.DOWN,
        "c": Intent.DOWN,
    }
    assert [dict(backend.metadata) for backend in snapshot.backends] == [
        {"zone": "eu-1"},
        {"rack": 7, "zone": "eu-2"},
        {},
        {},
    ]


@pytest.mark.parametrize("is_json", [True, False])
def test_none_at_all_must_be_said(is_json: bool) -> None:
    assert parse(b" [] ", "b", is_json=is_json) == Snapshot(backends=())
    with pytest.raises(DiscoveryError, match=r"^b:1: "):
        parse(b"", "b", is_json=is_json)


def test_a_byte_order_mark() -> None:
    assert ids(parse("\ufeff[http://a]".encode(), "b")) == ["a:80"]
    assert ids(parse('\ufeff["http://a"]'.encode(), "b", is_json=True)) == ["a:80"]


def test_variables_are_text() -> None:
    """A list of backends is written by programs, not by somebody with an environment."""
    (backend,) = parse(b"[{url: 'http://a', id: '${HOME}'}]", "b").backends
    assert backend.id == "${HOME}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "b:1: the file is empty: write [] for no backends", id="empty"),
        pytest.param("a: 1", "b:1: must be a list of backends", id="a mapping"),
        pytest.param("- http://a\n- 7", "b:2: [1]: must be a URL, or a mapping", id="a number"),
        pytest.param("- http://a\n- [", "b:2: not valid YAML", id="half written"),
        pytest.param("-\n  url: http://a\n  wieght: 2", "b:3: [0].wieght: unknown key", id="key"),
        pytest.param("- {wieght: 2}", "did you mean 'weight'?; b:1: [0]: url is", id="nearest"),
        pytest.param("- id: a", "b:1: [0]: url is missing", id="no url"),
        pytest.param("- url:", "b:1: [0]: a backend takes either a url", id="empty url"),
        pytest.param("- ftp://a", "b:1: [0].url: 'ftp://a' must begin with http", id="scheme"),
        pytest.param(
            "- url: http://a\n  weight: -1",
            "b:2: [0].weight: must be a number of at least 0, got -1",
            id="weight",
        ),
        pytest.param("- {url: http://a, weight: null}", "[0].weight: must be", id="null"),
        pytest.param(
            "- {url: http://a, drain: 30s}", "[0].drain: must be true or false", id="drain"
        ),
        pytest.param("- {url: http://a, down: 1}", "[0].down: must be true", id="down"),
        pytest.param("- {url: http://a, id: 1}", "[0].id: must be text", id="id"),
        pytest.param("- {url: http://a, zone: 1}", "[0].zone: must be text", id="zone"),
        pytest.param("- {url: http://a, metadata: x}", "[0].metadata: must be a", id="metadata"),
        pytest.param("- {url: http://a, url: http://a}", "[0].url: the key is there", id="twice"),
        pytest.param("- http://a\n- http://a:80", "b:2: [1]: two backends have the id", id="ids"),
        pytest.param("- &a [*a]", "b:1: [0][0]: an alias refers to itself", id="alias"),
        pytest.param("- !!python/name:os.system x", "unknown tag", id="tag"),
        pytest.param("\n".join(["- 1"] * 9), "; and 4 more", id="not all is told"),
        pytest.param('- {"a\\nb": 1}', "[0].a\\nb: unknown key", id="one line"),
    ],
)
def test_what_is_wrong_with_yaml(text: str, message: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        parse(text.encode(), "b")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "b:1: not valid JSON", id="empty"),
        pytest.param('[\n"http://a",', "b:2: not valid JSON: Expecting value", id="half written"),
        pytest.param("{}", "b:1: must be a list of backends", id="a mapping"),
        pytest.param('[{"uri": 1}]', "b: [0].uri: unknown key; did you mean 'url'?", id="key"),
        pytest.param('[{"url": 1, "url": 2}]', "b: the key 'url' is there twice", id="twice"),
        pytest.param('[{"url": "http://a", "weight": NaN}]', "b: NaN is not a number", id="NaN"),
        pytest.param(f"[{'9' * 30}]", "b: a number is too large", id="number"),
        pytest.param(f"[{'9' * 9999}]", "b: a number is too large", id="very large number"),
        pytest.param("[" * 100_000, "b: nested too deeply", id="deep"),
        pytest.param('[{"url": {}}]', "b: [0].url: must be text in quotes", id="type"),
    ],
)
def test_what_is_wrong_with_json(text: str, message: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        parse(text.encode(), "b", is_json=True)
    assert message in str(caught.value)


def test_no_password_is_told() -> None:
    with pytest.raises(DiscoveryError) as caught:
        parse(b"- http://user:hunter2@a", "b")
    assert "hunter2" not in str(caught.value)


def read_anything(content: bytes) -> None:
    for is_json in (True, False):
        try:
            parse(content, "b", is_json=is_json)
        except DiscoveryError as exc:
            message = str(exc)
        else:
            continue
        assert message.startswith("b:")
        assert message.isprintable()
        assert len(message) < 20_000


@given(st.binary(max_size=60))
def test_bytes_are_a_list_or_a_clean_error(content: bytes) -> None:
    read_anything(content)


@given(st.text("-[]{}:,&*!|>'\"#%@` \n\t\\ab01.~<=", max_size=60))
def test_marks_are_a_list_or_a_clean_error(text: str) -> None:
    read_anything(text.encode())


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["http://a", "http://b:1", "http+unix:///x", "https://[::1]:2", "http://é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
keys = st.sampled_from(
    ["url", "id", "weight", "max_requests", "priority", "drain", "down", "zone", "metadata", "x"]
)


@given(st.lists(values | st.dictionaries(keys, values, max_size=9), max_size=4))
def test_items_are_backends_or_a_clean_error(items: list[Any]) -> None:
    read_anything(json.dumps(items).encode())


# When it is read


def test_it_is_followed(file: Path) -> None:
    async def main() -> None:
        file.write_text('["http://a"]')
        async with watch(File(file, look_every=NEVER)) as snapshots:
            assert ids(await anext(snapshots)) == ["a:80"]
            file.write_text('["http://b"]')
            assert ids(await anext(snapshots)) == ["b:80"]
            replace(file, '["http://c"]')
            assert ids(await anext(snapshots)) == ["c:80"]

    run(main)


def test_nothing_is_missed_between_looks(file: Path) -> None:
    async def main() -> None:
        file.write_text('["http://0"]')
        async with watch(File(file, look_every=NEVER)) as snapshots:
            await anext(snapshots)
            for number in range(1, 6):
                replace(file, f'["http://{number}"]')
            while ids(await anext(snapshots)) != ["5:80"]:
                pass

    run(main)


def test_what_is_the_same_is_no_snapshot(file: Path) -> None:
    async def main() -> None:
        file.write_text('["http://a"]')
        async with watch(File(file, look_every=NEVER)) as snapshots:
            await anext(snapshots)
            replace(file, '["http://a"]')
            await asyncio.sleep(0.3)
            file.with_name("other").write_text("x")
            replace(file, '["http://b"]')
            assert ids(await anext(snapshots)) == ["b:80"]

    run(main)


def test_a_config_map_is_followed(tmp_path: Path) -> None:
    """Kubernetes links the file into a folder by way of `..data`, a link that it replaces."""
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(version: str, text: str) -> None:
        (mount / version).mkdir()
        (mount / version / "backends.yaml").write_text(text)
        (mount / "..tmp").symlink_to(version)
        (mount / "..tmp").replace(mount / "..data")

    publish("..1", "[http://a]")
    file = mount / "backends.yaml"
    file.symlink_to("..data/backends.yaml")

    async def main() -> None:
        async with watch(File(file, look_every=NEVER)) as snapshots:
            assert ids(await anext(snapshots)) == ["a:80"]
            for version, name in (("..2", "b"), ("..3", "c")):
                publish(version, f"[http://{name}]")
                assert ids(await anext(snapshots)) == [f"{name}:80"]

    run(main)


def vanish(file: Path) -> None:
    file.unlink()


def break_off(file: Path) -> None:
    replace(file, '["http://b", ')


def become_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def lose_the_folder(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()


@pytest.mark.parametrize("spoil", [vanish, break_off, become_a_folder, lose_the_folder])
def test_what_goes_wrong_is_no_empty_set(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "folder" / "backends.yaml"
    file.parent.mkdir()

    async def main() -> None:
        file.write_text("[http://a]")
        source = File(file, look_every=0.1)
        async with watch(source) as snapshots:
            assert ids(await anext(snapshots)) == ["a:80"]
            spoil(file)
            with pytest.raises(DiscoveryError, match=f"^{file}"):
                await anext(snapshots)
        # What is wrong still is not said again, and what is right is seen at once.
        async with watch(source) as snapshots:
            again = asyncio.ensure_future(anext(snapshots))
            await asyncio.sleep(0.3)
            assert not again.done()
            if file.is_dir():
                file.rmdir()
            file.parent.mkdir(exist_ok=True)
            file.write_text("[http://b]")
            assert ids(await again) == ["b:80"]

    run(main)


def test_other_mistakes_are_told(file: Path) -> None:
    async def main() -> None:
        source = File(file, look_every=NEVER)
        for text, reason in (
            (None, "cannot be read"),
            ("{", "not valid"),
            ("{}", "must be a list"),
        ):
            if text is not None:
                file.write_text(text)
            with pytest.raises(DiscoveryError, match=reason):
                async with watch(source) as snapshots:
                    await anext(snapshots)

    run(main)


def test_what_is_wrong_once_more_is_told_once_more(file: Path) -> None:
    async def main() -> None:
        source = File(file, look_every=NEVER)
        for _ in range(2):
            file.write_text("{}")
            with pytest.raises(DiscoveryError):
                async with watch(source) as snapshots:
                    await anext(snapshots)
            file.write_text('["http://a"]')
            async with watch(source) as snapshots:
                await anext(snapshots)

    run(main)


def test_each_of_several_watches_is_told(file: Path) -> None:
    """Two pools may share a source, and one of them may begin later."""

    async def main() -> None:
        source = File(file, look_every=NEVER)
        file.write_text("wrong")
        with pytest.raises(DiscoveryError):
            async with watch(source) as snapshots:
                await anext(snapshots)
        async with watch(source) as snapshots:
            waits = asyncio.ensure_future(anext(snapshots))
            await asyncio.sleep(0.1)
            with pytest.raises(DiscoveryError):
                async with watch(source) as others:
                    await asyncio.wait_for(anext(others), 5)
            assert not waits.done()
            file.write_text("[]")
            assert ids(await waits) == []

    run(main)


def test_each_event_loop_is_told(file: Path) -> None:
    source = File(file)

    async def main() -> None:
        with pytest.raises(DiscoveryError, match="No such file"):
            async with watch(source) as snapshots:
                await anext(snapshots)

    run(main)
    run(main)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(28, "No space left on device"), id="no watches"),
        # WatchfilesRustInternalError is one.
        pytest.param(RuntimeError("Too many open files (os error 24)"), id="no watchers"),
    ],
)
def test_without_word_from_the_system_it_is_looked_at(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def refuse(*paths: object, **options: object) -> AsyncGenerator[None, None]:
        async def nothing() -> AsyncGenerator[None, None]:
            raise error
            yield

        return nothing()

    monkeypatch.setattr("sticky_asgi.file_watch.awatch", refuse)

    async def main() -> None:
        file.write_text('["http://a"]')
        async with watch(File(file, look_every=0.02)) as snapshots:
            for name in "abc":
                replace(file, f'["http://{name}"]')
                assert ids(await anext(snapshots)) == [f"{name}:80"]

    run(main)
    assert caplog.messages == [f"{file} cannot be watched now: {error}"]


def test_polling(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "1")

    async def main() -> None:
        file.write_text('["http://a"]')
        # Polling does not tell two times of one second apart.
        os.utime(file, (1, 1))
        async with watch(File(file, look_every=NEVER)) as snapshots:
            await anext(snapshots)
            replace(file, '["http://other"]')
            assert ids(await anext(snapshots)) == ["other:80"]

    run(main)


def test_a_watch_that_is_left_leaves_nothing_behind(file: Path) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        file.write_text('["http://a"]')
        for _ in range(3):
            async with watch(File(file, look_every=NEVER)) as snapshots:
                await anext(snapshots)
            async with watch(File(file, look_every=NEVER)) as snapshots:
                await anext(snapshots)
                waiting = asyncio.ensure_future(anext(snapshots))
                await asyncio.sleep(0.02)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
        assert len(asyncio.all_tasks()) == 1
        # Threads that wait for the system hear a little later that nobody waits for them.
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)

    run(main)


def test_a_read_that_is_cut_off_is_done_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        file.write_text('["http://a"]')
        source = File(file)
        parsing = asyncio.Event()
        to_thread = asyncio.to_thread

        async def stop(function: Callable[..., Any], *args: Any) -> Any:
            if function == source._parse:
                parsing.set()
                await asyncio.sleep(NEVER)
            return await to_thread(function, *args)

        monkeypatch.setattr("asyncio.to_thread", stop)
        async with watch(source) as snapshots:
            waiting = asyncio.ensure_future(anext(snapshots))
            await parsing.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        monkeypatch.setattr("asyncio.to_thread", to_thread)
        async with watch(source) as snapshots:
            assert ids(await anext(snapshots)) == ["a:80"]

    run(main)


def test_a_huge_file(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    file.write_bytes(b" " * (10 * 1024**2 + 1))

    async def main() -> None:
        async with watch(File(file)) as snapshots:
            await anext(snapshots)

    with pytest.raises(DiscoveryError, match=r"b\.json: is larger than 10 MiB$"):
        run(main)


# Options


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="path must not be empty"):
        File("")
    with pytest.raises(TypeError, match="path must be str or PathLike"):
        File(cast(Any, 7))
    for seconds in (0, -1, float("inf"), True):
        with pytest.raises(ValueError, match="look_every must be a positive number"):
            File("b.yaml", look_every=seconds)


def test_equal_options_are_the_same_source() -> None:
    assert File("b.yaml") == File(Path("b.yaml").absolute())
    assert hash(File("b.yaml")) == hash(File(Path("b.yaml")))
    assert File("b.yaml") != File("b.yaml", look_every=1)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sticky_asgi.config_yaml", raising=False)
    monkeypatch.setitem(sys.modules, "yaml", cast(Any, None))
    # JSON needs no YAML.
    File("b.json")
    with pytest.raises(ImportError, match=r"pip install 'sticky-asgi\[file\]'"):
        File("b.yaml")
    monkeypatch.delitem(sys.modules, "sticky_asgi.file_watch", raising=False)
    monkeypatch.setitem(sys.modules, "watchfiles", cast(Any, None))
    with pytest.raises(ImportError, match=r"pip install 'sticky-asgi\[file\]'"):
        File("b.json")
