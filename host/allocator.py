"""How much freed memory a process keeps: glibc's ``mallopt`` (its manual, "Malloc Tunable Parameters").

A fold of long updates takes and gives back tens of megabytes for each of them. Left alone, glibc hands such memory back
to the system at once, and each page of it is cleared again when it is next touched. Does nothing where the C library
has no ``mallopt``.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_MAX_MMAP_THRESHOLD: Final = 32 << 20  # what glibc takes on 64-bit machines


def keep_freed_memory(n_bytes: int) -> bool:
    """Keep up to ``n_bytes`` of freed memory for reuse from now on; return whether this process can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, n_bytes) and mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD))
