"""The last round that this device would not or could not train, and why: for people, in ``refusal.cbor``.

Law: a file that is missing or damaged says nothing; no decision rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from host.durable import read_bytes, write_bytes
from protocol import cbor
from protocol.bounds import MAX_ROUND
from protocol.errors import MalformedMessageError, StorageError
from protocol.fields import FieldError, Length, Name, Range, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Refusal", "read_refusal", "save_refusal"]

_MAX_BYTES: Final = 1 << 14
_MAX_CHARS: Final = 500
_FILE: Final = "refusal.cbor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One round that was not trained."""

    task: Name
    round: Annotated[int, Range(0, MAX_ROUND)]
    why: Annotated[str, Length(0, _MAX_CHARS)]


def save_refusal(folder: Path, *, task: str, round_: int, why: str) -> None:
    """Replace what was refused last; of ``why`` the first 500 characters are kept."""
    refusal = Refusal(task=task, round=round_, why=why[:_MAX_CHARS])
    write_bytes(folder / _FILE, cbor.dumps(plain(refusal)))


def read_refusal(folder: Path) -> Refusal | None:
    """Return what was refused last; None if nothing was, or the file is damaged."""
    try:
        return structure(Refusal, cbor.loads(read_bytes(folder / _FILE, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES))
    except (OSError, StorageError, FieldError, MalformedMessageError):
        return None
