"""A pool whose backends are listed in a file of their own.

Decided here is when the file is read and what comes of it. What it may hold is in `file_list.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from ..checks import check_type, is_amount
from ..exceptions import DiscoveryError
from ..snapshot import Snapshot
from .file_list import parse

#: Larger than any honest list, in bytes.
_MAX_SIZE = 10 * 1024**2

#: A file's bytes, or why there are none.
_Content = bytes | str


@dataclass(frozen=True, slots=True)
class File:
    """The backends are those that a file lists, in YAML or, if its name ends in `.json`, in JSON.

    It is a list of URLs and of mappings with the keys `url`, `id`, `weight`, `max_requests` and
    `priority`, as in `Backend`; `drain: true` and `down: true`, which are intents; `zone`, where
    the backend runs; and `metadata`, a mapping. An empty list, `[]`, means no backends.

    The file is read when it changes, and put in force only as a whole: one that is wrong, half
    written, empty or gone is a `DiscoveryError`, which names file, line and key, and what was in
    force stays. Its folder is watched, so a file may be renamed or linked into its place, as
    Kubernetes does with a ConfigMap. Write it beside and rename it: whoever reads it meanwhile
    then sees either the old or the new one.

    Args:
        path: The file.
        look_every: Seconds after which it is looked at even if the system has told nothing of a
            change, as of network drives. Default 5.

    Raises:
        ImportError: A library of the extra `file` is not installed: watchfiles, or, unless the
            file is in JSON, PyYAML.
        ValueError: An empty path, or a `look_every` that is no positive number of seconds.
        TypeError: A path that is none.
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    look_every: float = 5.0
    #: What was wrong when a watch failed, in each event loop, for the watch that follows it.
    _wrong: WeakKeyDictionary[asyncio.AbstractEventLoop, _Content] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        check_type("path", self.path, str, os.PathLike)
        # Absolute, since the working directory may change.
        if not os.fspath(self.path):
            raise ValueError("path must not be empty")
        object.__setattr__(self, "path", Path(self.path).absolute())
        if not (is_amount(self.look_every) and self.look_every > 0):
            raise ValueError(
                f"look_every must be a positive number of seconds, got {self.look_every!r}"
            )
        try:
            from ..file_watch import watch_file  # noqa: F401

            if not self._is_json:
                from ..config_yaml import Source  # noqa: F401
        except ImportError as exc:
            raise ImportError("File takes an extra: pip install 'sticky-asgi[file]'") from exc

    @property
    def _is_json(self) -> bool:
        return Path(self.path).suffix.lower() == ".json"

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Tell the backends now, and whenever the file has changed. See `Discovery`."""
        from ..file_watch import watch_file

        loop = asyncio.get_running_loop()
        # What was wrong already is wrong still: to say so again helps nobody, and while the
        # caller paused after it a file that is right would wait. Whoever else watches is told.
        known = self._wrong.pop(loop, None)
        async with aclosing(watch_file(Path(self.path), self.look_every)) as looks:
            async for _ in looks:
                content = await asyncio.to_thread(self._read)
                if content == known:
                    continue
                known = content
                try:
                    snapshot = await asyncio.to_thread(self._parse, content)
                except DiscoveryError:
                    self._wrong[loop] = content
                    raise
                self._wrong.pop(loop, None)
                yield snapshot

    def _read(self) -> _Content:
        try:
            with open(self.path, "rb") as file:
                content = file.read(_MAX_SIZE + 1)
        except OSError as exc:
            return f"{self.path}: cannot be read: {exc.strerror}"
        if len(content) > _MAX_SIZE:
            return f"{self.path}: is larger than {_MAX_SIZE // 1024**2} MiB"
        return content

    def _parse(self, content: _Content) -> Snapshot:
        if isinstance(content, str):
            raise DiscoveryError(content)
        return parse(content, str(self.path), is_json=self._is_json)
