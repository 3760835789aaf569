"""Hypothesis strategies made from the declarations themselves, so that a new field is searched without new tests."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal, Union

from hypothesis import strategies as st

from protocol.fields import FieldError, Length, Pattern, Range

MAX_SIZE = 24  # of bytes, texts and arrays: longer ones find no more


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values that ``hint`` allows."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *bounds = typing.get_args(hint)
        return _bounded(inner, bounds)
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if arg is type(None) else of(arg) for arg in typing.get_args(hint)))
    if origin is Literal:
        return st.sampled_from(typing.get_args(hint))
    if dataclasses.is_dataclass(hint):
        return instances(typing.cast("type", hint))
    return _bounded(hint, [])


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Return instances of a dataclass whose fields all lie within their bounds, and suit each other."""
    hints = typing.get_type_hints(cls, include_extras=True)

    def make(**values: Any) -> Any:
        try:
            return cls(**values)
        except FieldError:  # a rule between fields
            return None

    fields = {field.name: of(hints[field.name]) for field in dataclasses.fields(cls)}
    return st.builds(make, **fields).filter(lambda one: one is not None)


def _bounded(inner: Any, bounds: list[Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one for each type
    low, high = next(((b.low, b.high) for b in bounds if isinstance(b, Range)), (-(2**63), 2**63))
    short, long = next(((b.low, b.high) for b in bounds if isinstance(b, Length)), (0, MAX_SIZE))
    long = max(short, min(long, MAX_SIZE))
    pattern = next((b.regex for b in bounds if isinstance(b, Pattern)), None)
    if pattern is not None:
        texts = st.from_regex(pattern, fullmatch=True)
        if short == long:
            return st.text("0123456789abcdef", min_size=short, max_size=long)
        return texts.filter(lambda text: short <= len(text) <= long)
    match typing.get_origin(inner) or inner:
        case t if t is bool:
            return st.booleans()
        case t if t is int:
            return st.integers(int(low), min(int(high), 2**63 - 1))
        case t if t is float:
            return st.floats(low, high, allow_nan=False)
        case t if t is str:
            return st.text(st.characters(codec="utf-8"), min_size=short, max_size=long)
        case t if t is bytes:
            return st.binary(min_size=short, max_size=long)
        case t if t is tuple:
            return st.lists(of(typing.get_args(inner)[0]), min_size=short, max_size=min(long, 4)).map(tuple)
        case t if t is dict:
            key, value = typing.get_args(inner)
            return st.dictionaries(of(key), of(value), min_size=short, max_size=max(short, 4))
    raise TypeError(f"no strategy for {inner}")


def plain_values() -> st.SearchStrategy[Any]:
    """Return anything that CBOR, JSON or TOML may hold, and some things that they may not."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(10**300, 10**310),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    )
