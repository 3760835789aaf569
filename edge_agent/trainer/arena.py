"""The memory that onnxruntime's sessions of this process share, and how large its first block is made.

The arena joins dead neighbours only within a block that it got from the system at once. Grown tensor by tensor, it
keeps holes that no larger tensor fits into (docs/adr/0034). So its first block is what the bundle's plan says that a
batch will need. Only what is touched of a block becomes this process's memory, but for the arena's own book of it, a
thirtieth of the block.

Laws: a plan decides how well memory is used and never whether a batch can be run: a first block that is too small is
followed by others, and one that this machine or this process may not have is not asked for.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

import onnxruntime as ort

from host.memory import machine_bytes, private_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.bundle import MemoryPeak

__all__ = ["activation_bytes", "share_arena"]

# onnxruntime's ArenaExtendStrategy: take from the system what a tensor needs, or blocks by the two sizes below.
_AS_REQUESTED: Final = 1
_BY_BLOCKS: Final = 0
_LATER_BLOCK_BYTES: Final = 4 << 20  # each is at least so large once the first is full
# Split a free block for a smaller tensor when more than this would lie idle; the default is 128 MB, which never splits.
_MAX_IDLE_BYTES: Final = 4096
_MARGIN: Final = 1.1  # of the block over the plan: holes inside of it, and weights that are widened
_MOST_OF_LIMIT: Final = 0.8  # of what a process may still take; the rest is for everything beside the arena

_made: Final[list[int]] = []  # what this process's arena was made for, once it is there


def activation_bytes(plan: Sequence[MemoryPeak], *, batch: int, seq: int | None) -> int:
    """Return what a bundle's plan says that the activations of a batch of that shape take; 0 if it does not say.

    What a larger batch adds to a peak of the same length is activations alone.
    """
    lengths = sorted({peak.seq or 0 for peak in plan})
    at_least = next((length for length in lengths if length >= (seq or 0)), None)
    peaks = sorted((peak.batch, peak.peak_bytes) for peak in plan if (peak.seq or 0) == at_least)
    if len(peaks) < 2 or peaks[0][0] == peaks[-1][0]:
        return 0
    (few, least), (many, most) = peaks[0], peaks[-1]
    share = (seq or 1) / (at_least or 1)
    return max(0, int((most - least) / (many - few) * batch * share))


def share_arena(n_bytes: int) -> None:
    """Make the arena of all sessions of this process, for activations of ``n_bytes`` (0: not known); once for all."""
    if _made:
        return
    first = int(n_bytes * _MARGIN)
    options = {"arena_extend_strategy": _AS_REQUESTED, "max_dead_bytes_per_chunk": _MAX_IDLE_BYTES}
    if 0 < first <= _most_at_once():
        options |= {
            "arena_extend_strategy": _BY_BLOCKS,
            "initial_chunk_size_bytes": first,
            "max_power_of_two_extend_bytes": _LATER_BLOCK_BYTES,
        }
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(options))
    _made.append(n_bytes)


def _most_at_once() -> int:
    """Return how large a block may be: within the machine's memory, and within what this process may still take."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return machine_bytes()
    return min(machine_bytes(), int(_MOST_OF_LIMIT * max(0, limit - private_bytes())))
