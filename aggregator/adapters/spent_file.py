"""The second record of a task's ledger: a small file of its own, replaced durably, never shortened.

Laws: a database that was restored from a backup finds here what was spent after the backup; a file that cannot be read
stops the task instead of counting as empty; noise seeds never come here.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Final

from aggregator.core.privacy.ledger import LedgerEntry, merged
from host.durable import make_folder, read_bytes, write_bytes
from protocol.errors import StorageError
from protocol.fields import FieldError, plain, structure

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["MAX_SPENT_BYTES", "SpentFile", "parse_spent"]

MAX_SPENT_BYTES: Final = 64 << 20  # 100,000 rounds of 600 bytes


class SpentFile:
    """Implements ``aggregator.ports.SpentRecord``."""

    def __init__(self, path: Path) -> None:
        """Use ``path``; its folder is made when something is written."""
        self._path = path

    def read(self) -> tuple[LedgerEntry, ...]:
        """Return the entries; none if there is no file.

        Raises:
            StorageError: it cannot be read, or is no such file.
        """
        if not self._path.exists():
            return ()
        return parse_spent(read_bytes(self._path, max_bytes=MAX_SPENT_BYTES), of=str(self._path))

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep ``entries`` beside what is there, durably.

        Raises:
            StorageError: it could not be kept.
        """
        known = self.read()
        ids = {one.entry_id for one in known}
        new = [dataclasses.replace(one, noise_seed=None, next_clip=None) for one in entries if one.entry_id not in ids]
        if new:
            make_folder(self._path.parent)
            lines = [json.dumps(plain(one)) for one in merged(known, new)]
            write_bytes(self._path, ("[\n" + ",\n".join(lines) + "\n]\n").encode())


def parse_spent(data: bytes, *, of: str) -> tuple[LedgerEntry, ...]:
    """Return the entries of such a file's content.

    Raises:
        StorageError: it is no such content; ``of`` says which file's.
    """
    try:
        lines = json.loads(data)
        if not isinstance(lines, list):
            raise FieldError("expected a list")
        return tuple(structure(LedgerEntry, one) for one in lines)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{of}: not a record of spent privacy ({error}); restore it: without it a budget may be spent twice"
        ) from error
