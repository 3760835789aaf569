"""A device's examples: one SQLite file, each row sealed (``example_seal``), bounded by age, count and bytes.

    <store>/examples.sqlite    rows: id, when, where from, stretch, role, whether labelled, sealed content
    <store>/key                see ``example_seal``

A *stretch* is a time in which the examples are of a kind; drift ends it. Roles: ``train`` of the present stretch,
``replay`` kept of stretches before, ``exam`` never trained on.

Laws: content, labels among it, is sealed and only opened for a reader; an id is never used twice; every change is one
transaction, and any process of the device may make it beside the others (SQLite's locks); it seals under the key that
is there in that transaction, so nothing is written under a destroyed one; what is deleted is overwritten in the file
(``secure_delete``), which a flash disk below may undo: removing the key alone is final. Memory: one row.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from edge_agent.adapters.example_seal import destroy_key, load_or_make_seal
from edge_agent.adapters.example_views import STORE_FILE
from edge_agent.core.reservoir import place_for
from host.durable import make_folder
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Counts", "ExampleStore", "Forgotten", "Listed", "Role"]

Role: TypeAlias = Literal["train", "replay", "exam"]
KEY: Final = "key"
MAX_ROW_BYTES: Final = 1 << 20  # a text of 65,536 characters, a picture of 224 x 224 as JSON
_BUSY_S: Final = 30.0
_LABELS: Final = ("label", "labels")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS examples (
  id INTEGER PRIMARY KEY AUTOINCREMENT, unix_s REAL NOT NULL, source TEXT NOT NULL, stretch INTEGER NOT NULL,
  role TEXT NOT NULL, is_labelled INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_role ON examples (role, stretch, id);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lessons (task TEXT NOT NULL, round INTEGER NOT NULL, last_id INTEGER NOT NULL,
  unix_s REAL NOT NULL, PRIMARY KEY (task, round));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is there."""

    n_train: int
    n_replay: int
    n_exam: int
    n_unlabelled: int
    n_bytes: int
    stretch: int
    oldest_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One example without its content."""

    id: int
    unix_s: float
    source: str
    role: str
    is_labelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was deleted, and the updates that may still hold it: (task, round), oldest first."""

    n_examples: int
    lessons: tuple[tuple[str, int], ...]


class ExampleStore:
    """One device's store; one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the store in ``folder``, made if missing.

        Raises:
            ConfigError: its key is readable by others or no key.
            StorageError: the file is damaged or cannot be made.
        """
        self._folder = make_folder(folder)
        with _translated(folder):
            self._db = sqlite3.connect(folder / STORE_FILE, timeout=_BUSY_S, isolation_level="IMMEDIATE")
            (folder / STORE_FILE).chmod(0o600)
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        with self._changing():
            pass  # the key is there from now on

    def add(
        self, rows: Sequence[dict[str, Any]], *, source: str, exam_every: int, unix_s: float | None = None
    ) -> list[int]:
        """Keep ``rows`` and return their ids.

        Raises:
            ConfigError: a row is too long (whoever sent it is at fault); none is kept.
            StorageError: the disk is full, or the file damaged.
        """
        for row in rows:
            if len(json.dumps(row)) > MAX_ROW_BYTES:
                raise ConfigError(f"an example of more than {MAX_ROW_BYTES} bytes")
        now_s = time.time() if unix_s is None else unix_s
        with self._changing():
            return [self._add(row, source, exam_every, now_s) for row in rows]

    def _add(self, row: dict[str, Any], source: str, exam_every: int, now_s: float) -> int:
        is_labelled, stretch = any(name in row for name in _LABELS), self._number("stretch")
        cursor = self._db.execute(
            "INSERT INTO examples (unix_s, source, stretch, role, is_labelled, sealed) "
            "VALUES (?, ?, ?, 'train', 0, x'')",
            (now_s, source[:256], stretch),
        )
        example_id = int(cursor.lastrowid or 0)
        role = self._role_of_next(exam_every) if is_labelled else "train"
        self._put(example_id, row, role=role, is_labelled=is_labelled)
        return example_id

    def _role_of_next(self, exam_every: int) -> Role:
        n = self._count_up("labelled")
        return "exam" if n % exam_every == 0 else "train"

    def _put(self, example_id: int, row: dict[str, Any], *, role: Role, is_labelled: bool) -> None:
        sealed = self._seal.seal(example_id, row)
        self._db.execute(
            "UPDATE examples SET role = ?, is_labelled = ?, sealed = ? WHERE id = ?",
            (role, is_labelled, sealed, example_id),
        )

    def label(self, example_id: int, label: Any, *, exam_every: int) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
        """Give an example its label, or another one; return the row as it was before.

        Raises:
            ConfigError: there is no such example (the caller's fault).
            StorageError: the store is damaged.
        """
        with self._changing():
            found = self._db.execute(
                "SELECT role, is_labelled, sealed FROM examples WHERE id = ?", (example_id,)
            ).fetchone()
            if found is None:
                raise ConfigError(f"there is no example {example_id}; it may have been forgotten")
            role, was_labelled, sealed = found
            row = self._seal.open(example_id, sealed)
            name = "labels" if isinstance(label, list) else "label"
            if not was_labelled:
                role = self._role_of_next(exam_every)
            self._put(example_id, {**row, name: label}, role=role, is_labelled=True)
            return row

    def rows(
        self, roles: Sequence[Role], *, stretch: int | None = None, labelled: bool = False
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield id and content of the examples in ``roles``, oldest first.

        Args:
            roles: which ones.
            stretch: of this one alone.
            labelled: those with a label alone.

        Raises:
            StorageError: a row does not open.
        """
        marks = ", ".join("?" * len(roles))
        sql = f"SELECT id, sealed FROM examples WHERE role IN ({marks})"  # noqa: S608 - question marks alone
        values: list[Any] = list(roles)
        if stretch is not None:
            sql, values = f"{sql} AND stretch = ?", [*values, stretch]
        if labelled:
            sql += " AND is_labelled"
        with _translated(self._folder):
            for example_id, sealed in self._db.execute(f"{sql} ORDER BY id", values):
                yield example_id, self._seal.open(example_id, sealed)

    def newest(self, n: int, *, unlabelled: bool = False) -> list[Listed]:
        """Return the ``n`` newest examples, newest first, without their content."""
        where = "WHERE NOT is_labelled" if unlabelled else ""
        sql = f"SELECT id, unix_s, source, role, is_labelled FROM examples {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
        with _translated(self._folder):
            return [
                Listed(id=i, unix_s=at, source=source, role=role, is_labelled=bool(labelled))
                for i, at, source, role, labelled in self._db.execute(sql, (n,))
            ]

    def counts(self) -> Counts:
        """Return what is there."""
        with _translated(self._folder):
            by_role = dict(self._db.execute("SELECT role, count(*) FROM examples GROUP BY role").fetchall())
            n_bytes, oldest, n_bare = self._db.execute(
                "SELECT coalesce(sum(length(sealed)), 0), min(unix_s), count(*) FILTER (WHERE NOT is_labelled) "
                "FROM examples"
            ).fetchone()
            return Counts(
                n_train=by_role.get("train", 0),
                n_replay=by_role.get("replay", 0),
                n_exam=by_role.get("exam", 0),
                n_unlabelled=n_bare,
                n_bytes=n_bytes,
                stretch=self._number("stretch"),
                oldest_unix_s=oldest,
            )

    def begin_stretch(self, *, capacity: int, draw: Callable[[], float]) -> int:
        """End the present stretch: the reservoir chooses what is kept of it, the rest is deleted. Return the next one.

        Args:
            capacity: places of the reservoir.
            draw: returns uniform numbers in [0, 1).
        """
        with _translated(self._folder), self._db:
            ids = [one for (one,) in self._db.execute("SELECT id FROM examples WHERE role = 'train' ORDER BY id")]
            places = {
                i: one
                for i, (one,) in enumerate(
                    self._db.execute("SELECT id FROM examples WHERE role = 'replay' ORDER BY id")
                )
            }
            n_before = max(self._number("offered"), len(places))
            for example_id in ids:
                place = place_for(n_before, capacity=capacity, draw=draw())
                n_before += 1
                loser = example_id
                if place is not None:
                    free = len(places) if len(places) < capacity else place
                    loser, places[free] = places.get(free, 0), example_id
                    self._db.execute("UPDATE examples SET role = 'replay' WHERE id = ?", (example_id,))
                self._db.execute("DELETE FROM examples WHERE id = ?", (loser,))
            self._set("offered", n_before)
            return self._count_up("stretch")

    def retain(self, *, max_age_days: float, max_examples: int, max_bytes: int, unix_s: float | None = None) -> int:
        """Delete what is too old, and then the oldest of what is too much; return how many."""
        now_s = time.time() if unix_s is None else unix_s
        with _translated(self._folder), self._db:
            n = self._db.execute("DELETE FROM examples WHERE unix_s < ?", (now_s - 86_400 * max_age_days,)).rowcount
            n += self._db.execute(
                "DELETE FROM examples WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER newest AS place, "
                "sum(length(sealed)) OVER newest AS total FROM examples "
                "WINDOW newest AS (ORDER BY role = 'train', id DESC)) "
                "WHERE place > ? OR total > ?)",
                (max_examples, max_bytes),
            ).rowcount
            return n

    def learnt(self, task: str, round_: int) -> None:
        """Remember that an update of this round was trained on what is there now."""
        with _translated(self._folder), self._db:
            (last_id,) = self._db.execute("SELECT coalesce(max(id), 0) FROM examples WHERE role != 'exam'").fetchone()
            self._db.execute("INSERT OR REPLACE INTO lessons VALUES (?, ?, ?, ?)", (task, round_, last_id, time.time()))

    def forget(self, *, before_unix_s: float | None = None, label: Any = None) -> Forgotten:  # noqa: ANN401 - any JSON value
        """Delete examples older than a time, or with a label, or both conditions together.

        Raises:
            StorageError: the store is damaged.
        """
        ids = []
        with _translated(self._folder), self._db:
            for example_id, unix_s, sealed in self._db.execute(
                "SELECT id, unix_s, sealed FROM examples ORDER BY id"
            ).fetchall():
                is_old = before_unix_s is None or unix_s < before_unix_s
                if is_old and (label is None or label in _labels_of(self._seal.open(example_id, sealed))):
                    ids.append(example_id)
            lessons = self._lessons_with(min(ids)) if ids else ()
            self._db.executemany("DELETE FROM examples WHERE id = ?", [(one,) for one in ids])
        self._shrink()
        return Forgotten(n_examples=len(ids), lessons=lessons)

    def forget_all(self) -> Forgotten:
        """Delete everything and the key, so that no copy of the file opens any more; the store begins anew."""
        counts = self.counts()
        n = counts.n_train + counts.n_replay + counts.n_exam
        with self._changing():
            lessons = self._lessons_with(0)
            self._db.execute("DELETE FROM examples")
        self._shrink()
        with self._changing():
            self._db.execute("DELETE FROM examples")  # what came in the meantime was sealed under the key that goes now
            destroy_key(self._folder / KEY)
            self._seal = load_or_make_seal(self._folder / KEY)
        return Forgotten(n_examples=n, lessons=lessons)

    def fact(self, name: str) -> str | None:
        """Return what ``set_fact`` kept."""
        with _translated(self._folder):
            found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def set_fact(self, name: str, value: str) -> None:
        """Keep a small text, such as how far a source was read."""
        with _translated(self._folder), self._db:
            self._set(name, value)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction, in which no other process writes, under the key that is there now."""
        with _translated(self._folder), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._seal = load_or_make_seal(self._folder / KEY)
            yield

    def _lessons_with(self, first_id: int) -> tuple[tuple[str, int], ...]:
        found = self._db.execute("SELECT task, round FROM lessons WHERE last_id >= ? ORDER BY task, round", (first_id,))
        return tuple((str(task), int(round_)) for task, round_ in found)

    def _shrink(self) -> None:
        with _translated(self._folder):
            self._db.execute("VACUUM")

    def _number(self, name: str) -> int:
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return 0 if found is None else int(found[0])

    def _count_up(self, name: str) -> int:
        n = self._number(name) + 1
        self._set(name, n)
        return n

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, str(value)))


def _labels_of(row: dict[str, Any]) -> list[Any]:
    several = row.get("labels")
    return [*([row["label"]] if "label" in row else []), *(several if isinstance(several, list) else [])]


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turn SQLite's exceptions into ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{folder / STORE_FILE}: {error}") from error
