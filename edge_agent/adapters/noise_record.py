"""What this device has claimed of distributed privacy: one small file, written before a noisy vector leaves.

    noise-spent.cbor    for each task the last round that was charged, and the sum of 1 / z^2 over its charged rounds

Laws: a round is charged once, however often its step is repeated; what was charged is never taken back, also if the sum
is abandoned; a file that cannot be read stops the device instead of counting as empty. Loads no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from host.durable import make_folder, read_bytes, write_bytes
from protocol import cbor
from protocol.bounds import MAX_ROUND
from protocol.errors import MalformedMessageError, StorageError
from protocol.fields import FieldError, Length, Name, Range, plain, structure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NoiseRecord"]

_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    round: Annotated[int, Range(1, MAX_ROUND)]
    precision: Annotated[float, Range(0, 1e15)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    tasks: Annotated[dict[Name, _Spent], Length(0, 10_000)] = field(default_factory=dict)


class NoiseRecord:
    """Owner of ``noise-spent.cbor``."""

    def __init__(self, folder: Path) -> None:
        """Use the agent's folder; nothing is made before something is charged."""
        self._folder, self._path = folder, folder / "noise-spent.cbor"

    def precision(self) -> float:
        """Return the sum of 1 / z^2 over everything that was charged, of all tasks.

        Raises:
            StorageError: the file is damaged.
        """
        return sum(one.precision for one in self._read().tasks.values())

    def charge(self, task: str, round_: int, *, noise_multiplier: float) -> None:
        """Keep durably that a noisy vector of this round may leave.

        Raises:
            StorageError: it could not be kept; nothing may leave.
        """
        known = self._read().tasks
        before = known.get(task)
        if before is not None and before.round >= round_:
            return
        spent = (0.0 if before is None else before.precision) + noise_multiplier**-2
        tasks = {**known, task: _Spent(round=round_, precision=spent)}
        make_folder(self._folder)
        write_bytes(self._path, cbor.dumps(plain(_File(tasks=tasks))))

    def _read(self) -> _File:
        try:
            return structure(_File, cbor.loads(read_bytes(self._path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES))
        except FileNotFoundError:
            return _File()
        except (FieldError, MalformedMessageError) as error:
            raise StorageError(
                f"{self._path}: damaged: {error}; restore it: without it this device's privacy may be spent twice"
            ) from error
