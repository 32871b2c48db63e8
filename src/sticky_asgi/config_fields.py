"""What the sections of a configuration file are made of: kinds of values, and the base section.

A section makes an object of the Python API and leaves the judging of values to it, so the file and
the API accept the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from .checks import is_amount
from .problems import blame
from .units import DURATION_PATTERN, SIZE_PATTERN, parse_duration, parse_size


def mistake(message: str, key: str | None = None) -> PydanticCustomError:
    """A mistake in a section, or in one of its keys."""
    return PydanticCustomError("mistake", "{message}", {"message": message, "key": key})


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, got true or false")
    return value


def not_yet(what: str) -> BeforeValidator:
    """Refuses a key that later versions will have; `null`, which switches it off, is fine."""

    def refuse(value: object) -> None:
        if value is not None:
            raise ValueError(f"{what} not part of this version")

    return BeforeValidator(refuse)


_SWITCH = {"true": True, "false": False}


def _read_drain(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    try:
        # A bare number could be meant for either.
        has_unit = isinstance(value, str) and value[-1:].isalpha()
        seconds = parse_duration(value) if has_unit else 0
    except ValueError:
        seconds = 0
    if not (is_amount(seconds) and seconds):
        raise ValueError(f"must be true, false or a duration such as 30s, got {value!r}")
    return seconds


class Also:
    """Says in the JSON Schema what a validator takes besides."""

    def __init__(self, **schema: Any) -> None:
        self.schema = schema

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [self.schema, handler(core_schema)]}


#: A number or a name, as of a Service's port.
Port: TypeAlias = Annotated[int | str, BeforeValidator(_not_bool)]
Integer: TypeAlias = Annotated[int, BeforeValidator(_not_bool)]
Number: TypeAlias = Annotated[float, BeforeValidator(_not_bool)]
Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": DURATION_PATTERN}]}
    ),
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": SIZE_PATTERN}]}),
]


Drain: TypeAlias = Annotated[
    bool | float,
    BeforeValidator(_read_drain),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "string", "pattern": DURATION_PATTERN},
            ]
        }
    ),
]


class Section(BaseModel):
    """A mapping of the file. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def empty(cls) -> Self:
        """The section when the file says nothing."""
        return cls.model_validate({})

    def build(self) -> object:
        """The object that the section stands for. Raises ValueError if it cannot be."""
        return None

    def given(self) -> dict[str, Any]:
        """The keys that the file sets."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        try:
            self.build()
        except (ValueError, TypeError, ImportError) as exc:
            key, message = blame(exc, type(self).model_fields)
            raise mistake(message, key) from None
        return self
