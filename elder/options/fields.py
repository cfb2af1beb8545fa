"""Declaring settings: pydantic models whose fields carry their help and their limits. Imports no torch.

Strict, except for what YAML and people write: `3.0` for a whole number, the text `1e-4` for a number, a list for a
tuple. `true` is never a number, a number is never a text. `elder.options.messages` explains what is wrong with a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, ClassVar, Self, TypeVar

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

MOST_WHOLE = 2**63 - 1
MOST = 1e30


class Settings(BaseModel):
    """A section of a config, or the options of a method: frozen, typed, with no unknown keys.

    Attributes:
        FORMER: Options that came after the first adapters, with the values that adapters without them were made with.
    """

    FORMER: ClassVar[Mapping[str, Any]] = {}

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

    def recorded(self) -> dict[str, Any]:
        """The values for a manifest; those of `FORMER` are left out, so that an old adapter is saved as it was."""
        return {k: v for k, v in self.model_dump().items() if not (k in self.FORMER and v == self.FORMER[k])}

    @classmethod
    def former(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a manifest means: an option that it does not name was not there yet."""
        return {**cls.FORMER, **recorded}

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


def _held(number: float) -> float:
    """Numbers that no machine word holds, or that are infinite after a product or two, are a mistake."""
    most = MOST_WHOLE if isinstance(number, int) else MOST
    if abs(number) > most:
        raise ValueError(f"{number:.6g} is too large, the most is {most:.6g}")
    return number


Text = Annotated[str, Field(pattern=r"^$|\S")]  # empty is possible, blank is not
Whole = Annotated[int, AfterValidator(_held), BeforeValidator(_whole)]
Natural = Annotated[int, Field(ge=0), AfterValidator(_held), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=1), AfterValidator(_held), BeforeValidator(_whole)]
Number = Annotated[float, AfterValidator(_held), BeforeValidator(_number)]
NotNegative = Annotated[float, Field(ge=0), AfterValidator(_held), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_held), BeforeValidator(_number)]
Rate = Annotated[float, Field(gt=0, le=1000), AfterValidator(_held), BeforeValidator(_number)]
Switch = BeforeValidator(_switch)
Listed = Annotated[tuple[T, ...], AfterValidator(_different), BeforeValidator(_items), _OrOneItem()]
Layers = Annotated[tuple[Whole, ...], AfterValidator(_rising), BeforeValidator(_tuple)]
