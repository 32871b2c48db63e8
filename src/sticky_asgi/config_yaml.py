"""YAML text to plain data, with the line of every key and every mistake of form.

What the keys mean is not known here: see `config_model.py`. Two things are done on the way:
variables of the environment are filled in, and keys given twice are found, which YAML libraries
overlook.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .problems import KeyPath

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_TAG = "tag:yaml.org,2002:"

#: What no honest file comes near, so that a few lines of aliases cannot fill the memory.
_MAX_DEPTH = 50
_MAX_VALUES = 100_000

#: What a file must be, and what is said of an empty one and of another.
_ROOTS: dict[type, tuple[type[Node], str, str]] = {
    dict: (MappingNode, "it must have the key 'pools'", "must be a mapping with the key 'pools'"),
    list: (SequenceNode, "write [] for no backends", "must be a list of backends"),
}

_KINDS = {
    "null": "null",
    "bool": "true or false",
    "int": "a whole number that can be used",
    "float": "a number that can be used",
}


class _TooMuch(Exception):
    """A limit of the whole file is exceeded."""


class _Loader(yaml.SafeLoader):
    """Reads no dates and no `1:30` as 90: what looks like one is a string here."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if tag in (f"{_TAG}int", f"{_TAG}float") and ":" in value:
            return f"{_TAG}str"
        return tag


class Source:
    """What a file holds.

    Args:
        text: The file's text.
        environ: Where `${VARIABLES}` are looked up; None: they are text like any other.
        root: Whether the file is a dict, as a whole configuration is, or a list.

    Attributes:
        data: The content as dicts, lists and scalars; None if the text is not YAML at all.
        lines: The line of each value by its path; for a key's value it is the key's.
        problems: Mistakes of form, as (line, path, message).
    """

    def __init__(
        self,
        text: str,
        environ: Mapping[str, str] | None,
        *,
        root: type[dict[str, Any]] | type[list[Any]] = dict,
    ) -> None:
        self.data: Any = None
        self.lines: dict[KeyPath, int] = {(): 1}
        self.problems: list[tuple[int, KeyPath, str]] = []
        self._environ = environ
        self._open: set[int] = set()
        self._count = 0
        self._loader: _Loader | None = None
        try:
            self._loader = _Loader(text)
            node = self._loader.get_single_node()
        except yaml.YAMLError as exc:
            self.problems.append((_line_of(exc, text), (), _describe(exc)))
            return
        except RecursionError:
            self.problems.append((1, (), "nested too deeply"))
            return
        except (ValueError, OverflowError):
            self.problems.append((1, (), "not valid YAML: an escape that is no character"))
            return
        wanted, hint, message = _ROOTS[root]
        if node is None:
            self.problems.append((1, (), f"the file is empty: {hint}"))
        elif not isinstance(node, wanted):
            self.problems.append((1, (), message))
        else:
            try:
                self.data = self._value(node, ())
            except RecursionError:
                self.problems.append((1, (), "nested too deeply"))
            except _TooMuch as exc:
                self.problems.append((1, (), str(exc)))

    def line(self, path: KeyPath) -> int:
        """The line of a path, or of what is nearest above it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def _problem(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append((node.start_mark.line + 1, path, message))

    def _value(self, node: Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _TooMuch("too many values")
        if len(path) > _MAX_DEPTH:
            raise _TooMuch("nested too deeply")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._problem(node, path, "an alias refers to itself")
            return None
        if node.tag != (f"{_TAG}map" if isinstance(node, MappingNode) else f"{_TAG}seq"):
            self._problem(node, path, f"unknown tag {node.tag!r}")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
            return None
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, path, "a key must be a word")
            elif key.tag == f"{_TAG}merge":
                merged |= self._merged(value, path)
            elif key.value in own:
                line = self.lines[(*path, key.value)]
                self._problem(key, (*path, key.value), f"the key is there twice, see line {line}")
            else:
                # The key's own word, so that `on` and `1` are not taken for something else.
                name = key.value
                self.lines[(*path, name)] = key.start_mark.line + 1
                own[name] = self._value(value, (*path, name))
        return merged | own

    def _merged(self, node: Node, path: KeyPath) -> dict[str, Any]:
        """What `<<` brings in; of several mappings the first wins, and own keys before all."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for item in nodes:
            if isinstance(item, MappingNode):
                merged = self._value(item, path) | merged
            else:
                self._problem(item, path, "'<<' takes a mapping")
        return merged

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        if node.tag == f"{_TAG}str":
            return self._expand(node, path)
        kind = node.tag.removeprefix(_TAG)
        if self._loader is not None and kind in _KINDS:
            try:
                if kind in ("int", "float") and ":" in node.value:
                    raise ValueError
                value = getattr(self._loader, f"construct_yaml_{kind}")(node)
            except (ValueError, LookupError, OverflowError):
                self._problem(node, path, f"is not {_KINDS[kind]}")
                return None
            if isinstance(value, int) and value.bit_length() > 64:
                self._problem(node, path, "is too large a number")
                return None
            return value
        self._problem(node, path, f"unknown tag {node.tag!r}")
        return None

    def _expand(self, node: ScalarNode, path: KeyPath) -> str:
        environ = self._environ
        if environ is None:
            return str(node.value)

        def fill(match: re.Match[str]) -> str:
            escaped, inside, closed = match.groups()
            if escaped:
                return match[0][1:]
            name = _NAME.fullmatch(inside)
            if name is None or not closed:
                self._problem(
                    node, path, "'${' begins a variable: write ${NAME}, ${NAME:-default} or $${"
                )
                return match[0]
            value = environ.get(name[1])
            if name[2] is not None and not value:
                return name[2]
            if value is None:
                message = f"environment variable {name[1]} is not set and has no default"
                self._problem(node, path, message)
                return match[0]
            return value

        return _VARIABLE.sub(fill, node.value)


def _line_of(exc: yaml.YAMLError, text: str) -> int:
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(exc, "position", 0)) + 1


def _describe(exc: yaml.YAMLError) -> str:
    # Only what PyYAML says of the form: its snippets would show the line, and a secret with it.
    if isinstance(exc, yaml.reader.ReaderError):
        return "not valid YAML: a control character"
    problem = getattr(exc, "problem", None) or "cannot be read"
    if "'\\t'" in problem:
        return "not valid YAML: a tab, where only spaces indent"
    context = getattr(exc, "context", None)
    what = f"{context}, {problem}" if context else problem
    return f"not valid YAML: {what.replace(', but found', ' but found')}"
