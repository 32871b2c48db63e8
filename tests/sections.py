"""Sections of a configuration file, held against the Python API."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic_core import PydanticUndefined


def assert_defaults(section: Any, api: Any) -> None:
    """A section passes on only what is set: its defaults, which are but said, are the API's."""
    parameters = inspect.signature(api).parameters
    for name, field in section.model_fields.items():
        default, stated = parameters[name].default, field.default
        if stated is PydanticUndefined:
            stated = inspect.Parameter.empty
        elif isinstance(default, tuple):
            default = type(stated)(default)
        assert stated == default, name
