"""JSON Schema (2020-12, the dialect of OpenAPI 3.1) of the dataclasses that ``protocol.fields.structure`` builds.

Law: what the schema refuses ``structure`` refuses too; rules between fields are in the code alone.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Final, Literal, Union

from protocol.fields import Length, Pattern, Range

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["schema_of"]

_SCALARS: Final[Mapping[object, str]] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def schema_of(hint: Any) -> dict[str, Any]:  # noqa: ANN401, PLR0911 - a type form; one return for each
    """Return the schema of a type that ``structure`` knows.

    Raises:
        TypeError: it is of no such type (a bug of ours).
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        schema = schema_of(args[0])
        for bound in args[1:]:
            schema |= _bound(bound, schema)
        return schema
    if origin in (Union, types.UnionType):
        (inner,) = [one for one in args if one is not type(None)]
        return {"anyOf": [schema_of(inner), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is dict:
        return {"type": "object", "propertyNames": schema_of(args[0]), "additionalProperties": schema_of(args[1])}
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint):
        return _object(typing.cast("type", hint))
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    raise TypeError(f"{hint!r} has no schema")


def _object(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)
    required = [one.name for one in fields if one.default is missing and one.default_factory is missing]
    properties = {one.name: schema_of(hints[one.name]) for one in fields}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def _bound(bound: object, schema: Mapping[str, Any]) -> dict[str, Any]:
    match bound, schema.get("type"):
        case Range(low, high), _:
            return {"minimum": low, "maximum": high}
        case Length(low, high), "string":
            return {"minLength": low, "maxLength": high}
        case Length(low, high), "array":
            return {"minItems": low, "maxItems": high}
        case Length(low, high), _:
            return {"minProperties": low, "maxProperties": high}
        case Pattern(regex, _), _:
            return {"pattern": f"^(?:{regex})$"}
    raise TypeError(f"{bound!r} is no bound")
