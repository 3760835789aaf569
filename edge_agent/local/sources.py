"""Feeds the store from files: folders in which files appear, and files that grow.

Laws: what was read is remembered in the store itself (name and place, in one fact a source), so a restart reads nothing
twice; a file that became shorter is read from its beginning, as after a rotation; a line without its end is left until
it is whole; a line that is no row is skipped and counted, and what it says is never logged; what is read in one turn is
bounded. Files stay where they are: their owner put them there.
"""

from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from host.durable import open_plain
from host.logs import event as log
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.adapters.example_store import ExampleStore

__all__ = ["Sources"]

_MAX_TURN_BYTES: Final = 4 << 20  # of one file in one turn; the rest follows in the next
_SETTLED_S: Final = 2.0  # a file in a watched folder is read when nobody has written to it for so long
_MAX_FILES: Final = 10_000  # of a watched folder
_MAX_LINE_BYTES: Final = 1 << 20
_SUFFIXES: Final = (".jsonl", ".csv")
_MAX_KNOWN_CHARS: Final = 4 << 20  # of the names of files that were read: a watched folder with tens of thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What one look at a file gave."""

    rows: list[dict[str, Any]]
    n_skipped: int
    place: int  # where the next look begins


class Sources:
    """The files of one device's settings."""

    def __init__(self, *, watch: tuple[Path, ...], append: tuple[Path, ...]) -> None:
        """Keep the paths; ``turn`` reads."""
        self._watch, self._append = watch, append

    def turn(self, store: ExampleStore, take: Callable[[list[dict[str, Any]], str], None]) -> int:
        """Hand what is new to ``take``, with the source's name; return how many rows.

        Raises:
            StorageError: the store cannot be read or written.
        """
        n = sum(self._follow(path, store, take) for path in self._append)
        return n + sum(self._look(folder, store, take) for folder in self._watch)

    def _follow(self, path: Path, store: ExampleStore, take: Callable[[list[dict[str, Any]], str], None]) -> int:
        name = f"append:{path}"
        place = int(store.fact(name) or 0)
        read = _read(path, place)
        if read is None or read.place == place:
            return 0
        if read.rows:
            take(read.rows, path.name)
        store.set_fact(name, str(read.place))  # after: at worst a crash between the two takes them twice
        _say(path, read)
        return len(read.rows)

    def _look(self, folder: Path, store: ExampleStore, take: Callable[[list[dict[str, Any]], str], None]) -> int:
        name, n = f"watch:{folder}", 0
        places: dict[str, int] = json.loads(store.fact(name) or "{}")
        try:
            paths = sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES)[:_MAX_FILES]
        except OSError:
            return 0
        for path in paths:
            read = _read(path, places.get(path.name, 0), is_whole=True)
            if read is None or read.place == places.get(path.name, 0):
                continue
            if read.rows:
                take(read.rows, path.name)
            n += len(read.rows)
            places = {one: place for one, place in places.items() if (folder / one).exists()} | {path.name: read.place}
            store.set_fact(name, json.dumps(places)[:_MAX_KNOWN_CHARS])
            _say(path, read)
        return n


def _say(path: Path, read: _Read) -> None:
    log("examples-read", source=path.name, n=len(read.rows), skipped=read.n_skipped)


def _read(path: Path, place: int, *, is_whole: bool = False) -> _Read | None:
    """Return the rows of ``path`` from the byte ``place`` on; None if it cannot be read now."""
    try:
        with open_plain(path) as file:
            facts = os.fstat(file.fileno())
            if is_whole and time.time() - facts.st_mtime < _SETTLED_S:
                return None  # it may still be coming
            n_bytes = facts.st_size
            if n_bytes < place:
                place = 0  # rotated
            head = _first_line(file) if path.suffix.lower() == ".csv" else b""
            file.seek(place)
            data = file.read(_MAX_TURN_BYTES)
    except (OSError, StorageError):
        return None
    at_end = place + len(data) == n_bytes
    whole = data if is_whole and at_end else data[: data.rfind(b"\n") + 1]
    if not whole and len(data) > _MAX_LINE_BYTES:
        whole = data  # no line is so long: leave it behind
    lines = whole.splitlines()
    if head and place == 0:
        lines = lines[1:]
    rows = [_row(line, head) for line in lines if line.strip()]
    good = [row for row in rows if row is not None]
    return _Read(rows=good, n_skipped=len(rows) - len(good), place=place + len(whole))


def _first_line(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(65_536).split(b"\n", 1)[0]


def _row(line: bytes, head: bytes) -> dict[str, Any] | None:
    if len(line) > _MAX_LINE_BYTES:
        return None
    try:
        text = line.decode("utf-8-sig")
        row = _csv_row(text, head.decode("utf-8-sig")) if head else json.loads(text)
    except (ValueError, RecursionError, csv.Error):
        return None
    return row if isinstance(row, dict) and row else None


def _csv_row(line: str, head: str) -> dict[str, Any]:
    row = next(iter(csv.DictReader([head.strip(), line])))
    named = {name: value for name, value in row.items() if isinstance(name, str) and isinstance(value, str)}
    label = named.get("label", "").strip()
    return named | ({"label": int(label)} if label.isdecimal() and len(label) < 10 else {})
