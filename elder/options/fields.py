"""How settings are declared: pydantic models whose fields carry their help and their limits. Imports no torch.

Strict, except for what YAML and people write: `3.0` for a whole number, the text `1e-4` for a number, a list for a
tuple. `true` is never a number, a number is never a text. `elder.options.messages` says what is wrong with a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


class Settings(BaseModel):
    """A section of a config, or the options of a method: frozen, typed, with no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        serialize_by_alias=True,
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked as a new one is."""
        return type(self).model_validate({**dict(self), **changes}, by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_all_defaults(cls, given: Any) -> Any:
        """A section whose keys are all commented out is `null` in YAML."""
        return {} if given is None else given


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field with its default and its help; limits are those of `pydantic.Field`, such as `le=5`."""
    return Field(default, description=help, **limits)


@dataclass(frozen=True)
class OneOf:
    """Allows some texts only, where these are not known to a type checker."""

    choices: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """A literal."""
        return core_schema.literal_schema(list(self.choices))


class _OrOneItem:
    """A list that may be written as its only item."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        items = handler(schema)
        return {"anyOf": [items, items["items"]]}


def _number(given: Any) -> Any:
    """Texts and numbers of other libraries as numbers of Python; all else as it is, to be refused."""
    foreign = isinstance(given, Real) and not isinstance(given, bool | int | float)
    if isinstance(given, str) or foreign:
        with suppress(ValueError):
            number = float(given)
            return number if math.isfinite(number) else given
    return given


def _switch(given: Any) -> Any:
    """YAML reads `on` and `off` as true and false."""
    return ("on" if given else "off") if isinstance(given, bool) else given


def _whole(given: Any) -> Any:
    number = _number(given)
    return int(number) if isinstance(number, float) and number.is_integer() else given


def _tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping) else given


def _items(given: Any) -> Any:
    return (given,) if isinstance(given, str) else _tuple(given)


def _different(items: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(items)) < len(items):
        raise ValueError("the list names something twice")
    return items


def _rising(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise ValueError(f"expected different block numbers in rising order, found {list(layers)}")
    return layers


Text = Annotated[str, Field(pattern=r"^$|\S")]  # empty is possible, blank is not
Whole = Annotated[int, BeforeValidator(_whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_number)]
Switch = BeforeValidator(_switch)
Listed = Annotated[tuple[T, ...], AfterValidator(_different), BeforeValidator(_items), _OrOneItem()]
Layers = Annotated[tuple[Whole, ...], AfterValidator(_rising), BeforeValidator(_tuple)]
