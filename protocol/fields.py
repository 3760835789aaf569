"""Turns untrusted plain values (from CBOR, JSON or TOML) into frozen dataclasses, and back.

Laws: a value has exactly the declared type and lies within its declared bound, or ``FieldError`` names its path;
unknown and missing keys are refused; nothing is coerced (``1`` is no float in CBOR, but TOML and JSON may write ``5``
for ``5.0``: see ``lenient_floats``); an error shows at most 64 characters of a value. Does not know where the values
came from: callers translate ``FieldError`` by blame.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, Union

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bytes", "FieldError", "Hex", "Length", "Name", "Pattern", "Range", "plain", "structure"]

T = TypeVar("T")

_MAX_EXACT_INT = 2**53  # a float holds every integer up to here


class FieldError(ValueError):
    """A value is not what its field declares; the text begins with the field's path."""


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of a number; NaN and infinities never pass."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Length:
    """Inclusive bounds of the length of text (characters), bytes, an array or a map."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that the whole text matches, and what to call it in an error."""

    regex: str
    meaning: str


# Identifiers appear in MQTT topics, file names and logs, so they hold nothing with a meaning there.
Name = Annotated[str, Length(1, 64), Pattern(r"[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, '.', '_', '-'")]
Hex = Annotated[str, Length(64, 64), Pattern(r"[0-9a-f]*", "64 lower-case hex digits")]


def Bytes(n_bytes: int) -> Length:  # noqa: N802 - reads as a type in Annotated[bytes, Bytes(32)]
    """Bound of exactly ``n_bytes`` bytes."""
    return Length(n_bytes, n_bytes)


def structure(cls: type[T], value: object, where: str = "", *, lenient_floats: bool = False) -> T:
    """Build the dataclass ``cls`` from a mapping of plain values.

    Args:
        cls: a dataclass whose fields use bool, int, float, str, bytes, Literal, Optional, ``tuple[T, ...]``,
            ``dict[str, T]``, nested dataclasses, and ``Annotated`` with Range, Length, Pattern; a value declared as
            ``Any`` is taken as it is, for its owner to check.
        value: what came from outside.
        where: the path of ``value``, to begin error messages with.
        lenient_floats: accept an integer where a float is declared (text formats write ``5`` for ``5.0``).

    Raises:
        FieldError: ``value`` breaks the declaration (whoever wrote it is at fault).
    """
    return typing.cast("T", _read_dataclass(cls, value, where, lenient_floats))


def plain(value: object) -> Any:  # noqa: ANN401 - the inverse of structure
    """Return dataclasses as maps, tuples as lists; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


# Takes a value, where it stands and whether floats may be written as integers; returns what is checked.
_Reader: TypeAlias = "Callable[[object, str, bool], object]"


class _Field(NamedTuple):
    name: str
    read: _Reader
    is_required: bool


@functools.cache
def _fields_of(cls: type) -> dict[str, _Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[field.name] = _Field(field.name, _reader(hints[field.name]), is_required)
    return found


def _read_dataclass(cls: type, value: object, where: str, lenient: bool) -> object:  # noqa: FBT001 - a _Reader's arguments
    if not isinstance(value, Mapping):
        raise FieldError(f"{where or 'top level'}: expected a table, got {type(value).__name__}")
    fields = _fields_of(cls)
    for key in value:
        if key not in fields:
            raise FieldError(f"{_join(where, _key(key))}: unknown key; known are {', '.join(sorted(fields))}")
    kwargs = {}
    for name, read, is_required in fields.values():
        if name in value:
            kwargs[name] = read(value[name], _join(where, name), lenient)
        elif is_required:
            raise FieldError(f"{_join(where, name)}: missing")
    try:
        return cls(**kwargs)
    except FieldError as error:
        raise FieldError(f"{where}: {error}" if where else str(error)) from error


@functools.cache
def _reader(hint: Any) -> _Reader:  # noqa: ANN401 - a type form
    """Return the reader of a declared type, made once: a declaration is looked at when it is first met."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return functools.partial(_read_bounded, _reader(args[0]), args[1:])
    if origin in (Union, types.UnionType):
        (inner,) = [a for a in args if a is not type(None)]  # unions of more than T | None are not declared anywhere
        return functools.partial(_read_optional, _reader(inner)) if type(None) in args else _reader(inner)
    if origin in _CONTAINERS:
        return functools.partial(_CONTAINERS[origin], *map(_reader, args[: 1 if origin is tuple else 2]))
    if origin is Literal:
        return functools.partial(_read_literal, args)
    if hint is Any:
        return lambda value, _where, _lenient: value
    return functools.partial(_read_dataclass if dataclasses.is_dataclass(hint) else _read_scalar, hint)


def _read_bounded(inner: _Reader, bounds: tuple[object, ...], value: object, where: str, lenient: bool) -> object:  # noqa: FBT001
    if isinstance(value, (list, tuple, Mapping)):  # before its items are built
        _check_lengths(bounds, value, where)
    checked = inner(value, where, lenient)
    if checked is not None:
        for bound in bounds:
            _check_bound(bound, checked, where)
    return checked


def _read_optional(inner: _Reader, value: object, where: str, lenient: bool) -> object:  # noqa: FBT001
    return None if value is None else inner(value, where, lenient)


def _read_literal(choices: tuple[object, ...], value: object, where: str, _lenient: bool) -> object:  # noqa: FBT001
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise FieldError(f"{where}: expected one of {', '.join(map(str, choices))}, got {_show(value)}")
    return value


def _read_array(inner: _Reader, value: object, where: str, lenient: bool) -> object:  # noqa: FBT001
    if not isinstance(value, (list, tuple)):
        raise FieldError(f"{where}: expected an array, got {type(value).__name__}")
    return tuple(inner(item, f"{where}[{i}]", lenient) for i, item in enumerate(value))


def _read_map(key: _Reader, item: _Reader, value: object, where: str, lenient: bool) -> object:  # noqa: FBT001
    if not isinstance(value, Mapping):
        raise FieldError(f"{where}: expected a table, got {type(value).__name__}")
    return {key(k, f"{where} key", lenient): item(v, _join(where, _key(k)), lenient) for k, v in value.items()}


def _read_scalar(kind: type, value: object, where: str, lenient: bool) -> object:  # noqa: FBT001
    if kind is float and lenient and type(value) is int and abs(value) <= _MAX_EXACT_INT:
        value = float(value)
    if type(value) is not kind:  # exact: bool is an int to isinstance, and CBOR has subclasses of its own
        raise FieldError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
    return value


_CONTAINERS: Final[dict[Any, Any]] = {tuple: _read_array, dict: _read_map}


def _check_lengths(bounds: tuple[object, ...], value: Sized, where: str) -> None:
    for bound in bounds:
        if isinstance(bound, Length):
            _check_bound(bound, value, where)


def _check_bound(bound: object, value: Any, where: str) -> None:  # noqa: ANN401 - the bound decides
    match bound:
        case Range(low, high):
            if not (low <= value <= high) or math.isnan(value):
                raise FieldError(f"{where}: expected {low:g} to {high:g}, got {_show(value)}")
        case Length(low, high):
            if not low <= len(value) <= high:
                raise FieldError(f"{where}: expected a length of {low} to {high}, got {len(value)}")
        case Pattern(regex, meaning):
            if re.fullmatch(regex, value) is None:
                raise FieldError(f"{where}: expected {meaning}, got {_show(value)}")
        case _:
            raise TypeError(f"{where}: {bound!r} is no bound")


def _show(value: object) -> str:
    """Return a short, printable text of a scalar; of anything else its type, since its own text has no bound."""
    match value:
        case str():
            return repr(value[:64]) + ("..." if len(value) > 64 else "")
        case bool() | float() | None:
            return repr(value)
        case int():
            return repr(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
        case _:
            return type(value).__name__


def _key(key: object) -> str:
    text = key[:64] if isinstance(key, str) else _show(key)
    return text if text.isprintable() else repr(text)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
