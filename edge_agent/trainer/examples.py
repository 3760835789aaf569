"""Reads text from a JSONL or CSV file: ``text`` and, for a task with labels, an integer ``label``.

Laws: the file is the device owner's, but still checked: line lengths, label range and count are bounded, and an error
names the line, never its content. Memory: all examples' text, so ``max_examples`` bounds it.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edge_agent.adapters.example_views import SUFFIX, read_view
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    _Reader = Callable[[Path], Iterator[tuple[int, Any]]]

__all__ = ["MAX_TEXT_CHARS", "Example", "read_examples", "read_rows"]

# A longer text is cut here: no tokenizer of ours keeps more than 8,192 tokens, and few tokens have over 8 characters.
MAX_TEXT_CHARS: Final = 65_536
_MAX_LINE_CHARS: Final = 4 * MAX_TEXT_CHARS
_EXPECTED: Final = "expected a text and an integer label under 'text' and 'label'"
_EXPECTED_TEXT: Final = "expected a text under 'text'"


@dataclass(frozen=True, slots=True)
class Example:
    """One text and its class, if the task has classes."""

    text: str
    label: int | None


def read_examples(path: Path, *, n_labels: int | None, max_examples: int) -> list[Example]:
    """Return at most ``max_examples`` examples of ``path``, in order; without labels if ``n_labels`` is None.

    Raises:
        ConfigError: no such file, another format, no example, or a line without ``text`` or a valid ``label``.
    """
    rows = read_rows(path, max_rows=max_examples, labelled=n_labels is not None)
    return [_example(row, where, n_labels) for where, row in rows]


def read_rows(path: Path, *, max_rows: int, labelled: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield at most ``max_rows`` rows of a file or of a store's view, each with its place; their content is unchecked.

    Args:
        path: a .jsonl, a .csv, or a view (``adapters.example_views``).
        max_rows: further ones are not read.
        labelled: of a view, whose examples may wait for their labels, those that have one.

    Raises:
        ConfigError: no such file, another format, or no row.
        StorageError: a store is damaged.
    """
    suffix = path.suffix.lower()
    readers: dict[str, _Reader] = {".jsonl": _jsonl, ".csv": _csv, SUFFIX: partial(read_view, labelled=labelled)}
    rows = readers.get(suffix)
    if rows is None:
        raise ConfigError(f"{path}: examples are read from .jsonl or .csv")
    n_rows = 0
    try:
        for number, row in rows(path):
            n_rows += 1
            yield f"{path}:{number}", row
            if n_rows == max_rows:
                break
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such data file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: line {n_rows + 1} or a later one is not UTF-8 text") from error
    if not n_rows:
        raise ConfigError(f"{path}: has no examples")


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path, newline=None), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: not JSON") from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_MAX_LINE_CHARS)
    reader = csv.DictReader(_lines(path, newline=""))  # csv asks for line ends as they are, for quoted texts
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _lines(path: Path, *, newline: str | None) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline=newline) as file:  # spreadsheets begin their files with a mark
        number = 0
        while line := file.readline(_MAX_LINE_CHARS + 1):
            number += 1
            if len(line) > _MAX_LINE_CHARS:
                raise ConfigError(f"{path}:{number}: a line longer than {_MAX_LINE_CHARS} characters")
            yield line


def _example(row: Any, where: str, n_labels: int | None) -> Example:  # noqa: ANN401 - whatever the file holds
    text = row.get("text") if isinstance(row, dict) else None
    label = None if n_labels is None or not isinstance(row, dict) else _label(row.get("label"), where, n_labels)
    if not isinstance(text, str):
        raise ConfigError(f"{where}: {_EXPECTED if n_labels is not None else _EXPECTED_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, as JSON may write it
        raise ConfigError(f"{where}: the text is not valid Unicode") from error
    return Example(text[:MAX_TEXT_CHARS], label)


def _label(label: Any, where: str, n_labels: int) -> int:  # noqa: ANN401 - likewise
    if isinstance(label, str) and label.strip().isdecimal() and len(label) < 10:
        label = int(label.strip())  # int() alone takes fewer characters for white space
    if type(label) is not int:
        raise ConfigError(f"{where}: {_EXPECTED}")
    if not 0 <= label < n_labels:
        raise ConfigError(f"{where}: the label is not one of 0 to {n_labels - 1}")
    return label
