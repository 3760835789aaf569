"""What a device keeps of the secure sum that it is in: at most one, under the agent's folder.

    sum/vector.f32   the delta, until the sum is over
    sum/weight       how many examples it counts for
    sum/step.cbor    the last step that was taken: its state, the neighbours' keys, and the message to send, in one file
    sum/next.cbor    what the service sent for the next step
    deltas/          only with privacy.keep_deltas

Laws: a step's state and its message are one file, replaced whole before the message is sent, so that a step is answered
once, with the same bytes however often; everything goes when the sum is over. Removing a file does not overwrite the
disk's blocks: whoever takes the disk out may find old secrets, as with any file.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from host.durable import make_folder, read_bytes, remove, write_bytes
from protocol import cbor
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import MalformedMessageError, StorageError
from protocol.fields import Bytes, FieldError, Length, Name, Range, plain, structure
from protocol.sum_round import SumStepName  # noqa: TC001 - structure() resolves the annotations

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StepRecord", "SumFolder"]

_MAX_BYTES: Final = 4 * MAX_MESSAGE_BYTES
_Blob = Annotated[bytes, Length(0, _MAX_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step that was taken; ``repr`` shows none of its secrets."""

    task: Name
    round: Annotated[int, Range(1, 2**31)]
    step: SumStepName
    update_id: Annotated[bytes, Bytes(16)]
    state: _Blob  # secure_sum.device_state.pack_state
    directory: _Blob  # names and keys of the neighbours, from the roster on
    envelope: _Blob

    def __repr__(self) -> str:
        return f"StepRecord(task={self.task!r}, round={self.round}, step={self.step!r})"


class SumFolder:
    """Owner of ``sum/`` and ``deltas/``."""

    def __init__(self, folder: Path) -> None:
        """Use the agent's folder; nothing is made before it is needed."""
        self.root, self._folder, self._deltas = folder, folder / "sum", folder / "deltas"

    @property
    def vector(self) -> Path:
        """The delta of this sum."""
        return self._folder / "vector.f32"

    @property
    def next(self) -> Path:
        """What the service sent last."""
        return self._folder / "next.cbor"

    def begin(self, delta: bytes, weight: int) -> None:
        """Keep what goes into a new sum; whatever was of another goes."""
        self.wipe()
        make_folder(self._folder)
        write_bytes(self._folder / "weight", str(weight).encode())
        write_bytes(self.vector, delta)

    def weight(self) -> int:
        """Return how many examples the vector counts for.

        Raises:
            StorageError: missing or damaged.
        """
        path = self._folder / "weight"
        try:
            return int(read_bytes(path, max_bytes=16))
        except (FileNotFoundError, ValueError) as error:
            raise StorageError(f"{path}: missing or damaged") from error

    def save_step(self, record: StepRecord) -> None:
        """Replace the step that was taken last."""
        write_bytes(self._folder / "step.cbor", cbor.dumps(plain(record)))

    def step(self) -> StepRecord | None:
        """Return the step that was taken last, or None before the first.

        Raises:
            StorageError: damaged.
        """
        path = self._folder / "step.cbor"
        try:
            return structure(StepRecord, cbor.loads(read_bytes(path, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES))
        except FileNotFoundError:
            return None
        except (FieldError, MalformedMessageError) as error:
            raise StorageError(f"{path}: damaged: {error}") from error

    def save_next(self, body: bytes) -> None:
        """Keep the service's message for the next step."""
        write_bytes(self.next, body)

    def wipe(self) -> None:
        """Remove everything of the sum, its secrets first."""
        if self._folder.exists():
            remove(self._folder / "step.cbor")
            shutil.rmtree(self._folder, ignore_errors=True)

    def keep_delta(self, task: str, round_: int, weight: int, delta: bytes) -> None:
        """Keep a copy for comparison."""
        make_folder(self._deltas)
        write_bytes(self._deltas / f"{task}.{round_}.{weight}.f32", delta)
