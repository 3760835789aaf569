"""What the virtual devices did, one JSON line an act: the fleet's own account, against which a service is checked.

Laws: a line is written before the act that it tells of (sending) or as soon as its news arrived (a receipt); nothing is
read from the service. Memory: one line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

__all__ = ["Entry", "Journal", "entries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One act of one device: it ``sent`` an update for the first time, or heard a receipt's status.

    ``delta`` is the number of the delta in the pool (``deltas.DeltaPool``).
    """

    act: Literal["sent", "accepted", "refused"]
    device: str
    task: str
    round: int
    update_id: str  # hex
    version: int = 0
    n_examples: int = 0
    delta: int = 0
    reason: str | None = None


class Journal:
    """An open journal file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Begin an empty journal.

        Raises:
            StorageError: the file cannot be made.
        """
        self.path = path
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def write(self, entry: Entry) -> None:
        """Append one line."""
        self._file.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()


def entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal of ours.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                facts: dict[str, Any] = json.loads(line)
                yield Entry(**facts)
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{path}: not a journal: {error}") from error
