"""What the day has used and which rules hold, in the agent's folder: for the agent after a restart, and for status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from edge_agent.core.eligibility import DailyUse
from host.durable import read_bytes, write_bytes
from protocol import cbor
from protocol.errors import MalformedMessageError, StorageError
from protocol.fields import FieldError, Length, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ConductRecord", "read_conduct", "write_conduct"]

_FILE: Final = "conduct.cbor"
_MAX_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConductRecord:
    """One day's use, and what held at the last look, in plain words."""

    use: DailyUse = field(default_factory=DailyUse)
    holds: Annotated[tuple[Annotated[str, Length(0, 256)], ...], Length(0, 32)] = ()


def read_conduct(folder: Path) -> ConductRecord:
    """Return the record; a new one if there is none or it is damaged: then the day's use is forgotten, nothing else."""
    try:
        data = read_bytes(folder / _FILE, max_bytes=_MAX_BYTES)
        return structure(ConductRecord, cbor.loads(data, max_bytes=_MAX_BYTES), lenient_floats=True)
    except (FileNotFoundError, StorageError, FieldError, MalformedMessageError):
        return ConductRecord()


def write_conduct(folder: Path, record: ConductRecord) -> None:
    """Keep it, durably.

    Raises:
        StorageError: the disk fails.
    """
    write_bytes(folder / _FILE, cbor.dumps(plain(record)))
