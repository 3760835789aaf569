"""How a fold's processes speak over a pipe: frames of a kind, a length and bytes.

Laws: both ends are ours and on this machine; a length is bounded before a byte is read. What went wrong over there is
only said: the service does the job itself then, and meets a blob that is missing or away as it always does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.fold_engine import FoldEngineError

if TYPE_CHECKING:
    from typing import IO

__all__ = ["END", "FAILED", "JOB", "MAX_SAID_BYTES", "SUM", "raise_unless_sum", "read_frame", "write_frame"]

JOB: Final = b"J"
END: Final = b"E"  # of a batch of jobs; the other way: ready
SUM: Final = b"S"
FAILED: Final = b"F"
MAX_SAID_BYTES: Final = 1 << 16
_LENGTH_BYTES: Final = 8


def write_frame(stream: IO[bytes], kind: bytes, data: bytes = b"") -> None:
    """Send one frame.

    Raises:
        OSError: nobody listens any more.
    """
    stream.write(kind + len(data).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(data)
    stream.flush()


def read_frame(stream: IO[bytes], *, max_bytes: int) -> tuple[bytes, bytes]:
    """Return the next frame's kind and bytes.

    Raises:
        EOFError: the other end is gone, or sent something else.
    """
    head = stream.read(1 + _LENGTH_BYTES)
    n_bytes = int.from_bytes(head[1:], "little")
    if len(head) <= _LENGTH_BYTES or n_bytes > max_bytes:
        raise EOFError("the other end is gone")
    data = stream.read(n_bytes)
    if len(data) < n_bytes:
        raise EOFError("the other end is gone")
    return head[:1], data


def raise_unless_sum(kind: bytes, data: bytes) -> None:
    """Raise what the other end said.

    Raises:
        FoldEngineError: it could not do the job.
    """
    if kind != SUM:
        raise FoldEngineError(data.decode("utf-8", "replace")[:500])
