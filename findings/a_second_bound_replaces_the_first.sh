#!/usr/bin/env bash
# Finding: a type with a lower bound, used in a field with another one, keeps its bound, loses it, or takes the weaker one,
#          by where the second bound is written. Nothing is said, and the JSON schema shows the same.
#
# Version:  pydantic 2.14.3, Python 3.11.
# Input:    Port = Annotated[int, Field(ge=1024)], a type of a config; four fields that also say ge=1.
# Expected: both bounds hold, wherever the second is written (80 is refused); or the definition is refused.
# Seen:     as the default, `x: Port = Field(..., ge=1)`, the type's own bound holds. Inside Annotated, or with `| None`
#           on the type, the second bound replaces it and 80 passes. A bound of another kind (le) is added in all four.
# Output:   Port = Field(ge=1): 80 refused, minimum 1024
#           Annotated[Port, Field(ge=1)]: 80 passes, minimum 1
#           Port | None = Field(ge=1): 80 passes, minimum 1
#           Annotated[Port, Field(le=99)]: 80 refused, minimum 1024
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q pydantic==2.14.3
cat > "$place/seen.py" <<'PYTHON'
import sys
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

Port = Annotated[int, Field(ge=1024)]


class Default(BaseModel):
    x: Port = Field(5000, ge=1)


class Inside(BaseModel):
    x: Annotated[Port, Field(ge=1)] = 5000


class Optional(BaseModel):
    x: Port | None = Field(5000, ge=1)


class Other(BaseModel):
    x: Annotated[Port, Field(le=99)] = 5000


def told(name, kind):
    try:
        kind(x=80)
        passes = "passes"
    except ValidationError:
        passes = "refused"
    schema = kind.model_json_schema()["properties"]["x"]
    minimum = schema.get("minimum", schema.get("anyOf", [{}])[0].get("minimum"))
    return f"{name}: 80 {passes}, minimum {minimum}"


lines = [
    told("Port = Field(ge=1)", Default),
    told("Annotated[Port, Field(ge=1)]", Inside),
    told("Port | None = Field(ge=1)", Optional),
    told("Annotated[Port, Field(le=99)]", Other),
]
print("\n".join(lines))
expected = [
    "Port = Field(ge=1): 80 refused, minimum 1024",
    "Annotated[Port, Field(ge=1)]: 80 passes, minimum 1",
    "Port | None = Field(ge=1): 80 passes, minimum 1",
    "Annotated[Port, Field(le=99)]: 80 refused, minimum 1024",
]
sys.exit(lines != expected)
PYTHON
"$place/venv/bin/python" "$place/seen.py"
