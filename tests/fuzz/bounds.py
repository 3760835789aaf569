"""Runs one input through one target and holds it to its bounds of time and memory.

Time is the thread's own on the processor, so that a busy machine fails nobody. Memory is how far one input drives the
process's peak resident set; the peak only rises, so the price of a look is one system call.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

__all__ = ["MAX_GROWTH_BYTES", "MAX_SECONDS", "check"]

MAX_SECONDS: Final = 2.0  # the slowest good input takes 20 ms
MAX_GROWTH_BYTES: Final = 64 << 20  # of inputs that have at most 32 kB; an .npz may unpack to 4 MiB


def check(target: Target, data: bytes) -> None:
    """Feed ``data`` to ``target``.

    Raises:
        AssertionError: it took too long or too much memory, or what was taken is not what was promised.
    """
    before_bytes, began_s = _peak_bytes(), time.thread_time()
    target.feed(data)
    took_s, grew_bytes = time.thread_time() - began_s, _peak_bytes() - before_bytes
    assert took_s <= MAX_SECONDS, f"{target.name}: {len(data)} bytes took {took_s:.1f} s"
    assert grew_bytes <= MAX_GROWTH_BYTES, f"{target.name}: {len(data)} bytes took {grew_bytes} bytes of memory"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
