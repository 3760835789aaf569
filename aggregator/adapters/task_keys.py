"""A task's private keys in files: ``TASK.taskkey`` from its first round on, ``TASK.taskkey.from-R`` from round R on.

Laws: a round has one key for its whole life, the newest that begins at or before it; a key is durable before anything
can be sealed to it; files have mode 0600. A destroyed key is an unlinked file: what a disk or a backup still holds of
it is not overwritten. Implements ``aggregator.ports.TaskKeys``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from host.durable import make_folder, remove, sweep
from host.keys import load_task_key, save_key
from host.logs import event
from protocol.errors import StorageError
from protocol.sealing import TaskKey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FolderTaskKeys"]


class FolderTaskKeys:
    """The keys of one task."""

    def __init__(self, first: Path, *, make: bool) -> None:
        """Open the keys beside ``first``, making that one if there is none at all and ``make`` says so.

        Raises:
            ConfigError: there is none, or a file is no key (the user's fault).
        """
        self._first = first
        if make:
            make_folder(first.parent)
            sweep(first.parent)
        files = self._files()
        if not files and make:
            save_key(first, TaskKey.generate())
        self._keys = {begin: load_task_key(path) for begin, path in (self._files() or {1: first}).items()}

    def of_round(self, round_: int) -> TaskKey:
        """Return the key that opens what was sealed for this round.

        Raises:
            StorageError: it was destroyed.
        """
        begins = [begin for begin in self._keys if begin <= round_]
        if not begins:
            raise StorageError(f"{self._first.name}: the key of round {round_} was destroyed, its updates stay sealed")
        return self._keys[max(begins)]

    def begin(self, round_: int) -> None:
        """Make a key that holds from ``round_`` on; nothing happens if there is one already."""
        if round_ not in self._keys:
            key, path = TaskKey.generate(), self._first.with_name(f"{self._first.name}.from-{round_}")
            save_key(path, key)
            self._keys[round_] = key
            event("task-key-begins", task=self._first.stem, round=round_)

    def end_before(self, round_: int) -> None:
        """Destroy the keys that hold for earlier rounds alone."""
        files = self._files()
        begins = sorted(files)
        for begin, following in pairwise(begins):
            if following <= round_:
                remove(files[begin])
                self._keys.pop(begin, None)
                event("task-key-destroyed", task=self._first.stem, from_round=begin, before_round=following)

    def _files(self) -> dict[int, Path]:
        files = {1: self._first} if self._first.exists() else {}
        for path in self._first.parent.glob(f"{self._first.name}.from-*"):
            begin = path.name.rpartition("-")[2]
            if begin.isdecimal():
                files[int(begin)] = path
        return files
