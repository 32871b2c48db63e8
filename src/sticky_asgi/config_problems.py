"""What pydantic found wrong, in the words of the file: paths of keys, and plain messages.

No message shows the value of a key that holds free text, since that may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .problems import KeyPath, nearest

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}
_WANTED = {
    "string": "text in quotes",
    "list": "a list",
    "model": "a mapping such as {}",
    "dict": "a mapping",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "finite": "a finite number",
}


def problems_of(
    exc: ValidationError, model: type[BaseModel], data: Any
) -> Iterator[tuple[KeyPath, str]]:
    """Each error's path and message.

    Args:
        exc: What validation raised.
        model: The model that was validated.
        data: What it was given.
    """
    for error in exc.errors(include_url=False):
        path: KeyPath = tuple(error["loc"])
        message = _message(error, model)
        key = error.get("ctx", {}).get("key")
        section = _at(data, path)
        if error["type"] == "mistake" and key is not None and section is not None:
            if key in section:
                path = (*path, key)
            else:
                # It is to blame for not being there.
                message = f"{key} {message}"
        yield path, message


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data if isinstance(data, dict) else None


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "mistake":
        return str(context["message"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        *above, key = error["loc"]
        section = _model_at(model, tuple(above))
        return f"unknown key{nearest(str(key), list(section.model_fields))}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "literal_error":
        return _choice(error["input"], str(context["expected"]))
    wanted = _WANTED.get(kind.partition("_")[0])
    if wanted is None:
        return error["msg"]
    if wanted == _WANTED["int"] and isinstance(error["input"], float):
        return f"must be {wanted}, got {error['input']}"
    return f"must be {wanted}, got {_KINDS.get(type(error['input']), 'something else')}"


def _choice(value: object, expected: str) -> str:
    """pydantic lists choices as `'a', 'b' or 'c'`."""
    words = expected.replace(" or ", ", ").replace("'", "").split(", ")
    if words == ["True"]:
        return "must be true"
    if not isinstance(value, str):
        return f"must be one of {', '.join(words)}, got {_KINDS.get(type(value), 'something else')}"
    return f"unknown value {value!r}{nearest(value, words)}"


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The model that describes the mapping at a path."""
    kind: Any = model
    for part in path:
        models = list(_models_in(kind))
        found = next((m for m in models if str(part) in m.model_fields), None)
        if found is not None:
            kind = found.model_fields[str(part)].annotation
    return next(_models_in(kind), model)


def _models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The models an annotation leads to: through lists, values of dicts, and `| None`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (list, dict, Union, UnionType, Annotated):
        for argument in get_args(kind):
            yield from _models_in(argument)
