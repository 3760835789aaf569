"""Writes the small TOML files that a local fleet needs: tables of text, numbers, booleans and flat arrays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["toml_text"]


def toml_text(table: Mapping[str, object]) -> str:
    """Return ``table`` as TOML (version 1.0)."""
    return "\n".join(_lines(table, "")) + "\n"


def _lines(table: Mapping[str, object], prefix: str) -> Iterator[str]:
    tables = {key: value for key, value in table.items() if _is_table(value)}
    for key, value in table.items():
        if key not in tables and value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in tables.items():
        path = f"{prefix}{_key(key)}"
        for one, head in [(v, f"[[{path}]]") for v in value] if isinstance(value, list) else [(value, f"[{path}]")]:
            yield ""
            yield head
            yield from _lines(one, path + ".")  # type: ignore[arg-type]  # _is_table saw a mapping


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else json.dumps(key, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, (bool, str)):
        # A JSON string of printable text is a TOML basic string; DEL alone differs, and we write none.
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
