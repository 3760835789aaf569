"""Masks: a 256-bit seed expanded by ChaCha20 (RFC 8439) and added to a vector modulo 2**32.

ChaCha20 and not AES-CTR: on x86-64 with AES instructions the two are within 10% of each other here, and a Raspberry Pi
4 has no AES instructions, where ChaCha20 needs none.

Laws: a seed makes one keystream and is used for one sum (``keys`` binds task, round and both devices into it); nothing
shortens a seed; memory is one block, whatever the vector's length. Sums modulo 2**32 are also right modulo 2**bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_mask", "keystream", "subtract_mask"]

_BLOCK_VALUES: Final = 2**16  # 256 KiB of keystream stay in a core's second-level cache; 2**14 and 2**18 measure alike
_ZEROS: Final = memoryview(bytes(4 * _BLOCK_VALUES))
_FIRST_BLOCK: Final = bytes(16)  # counter 0 and nonce 0: a seed is used once, so neither needs to differ


def add_mask(total: NDArray[np.uint32], seed: bytes) -> None:
    """Add the mask of ``seed`` to ``total``, uint32 [n], in place."""
    _apply(total, seed, np.add)


def subtract_mask(total: NDArray[np.uint32], seed: bytes) -> None:
    """Take the mask of ``seed`` from ``total``, uint32 [n], in place."""
    _apply(total, seed, np.subtract)


def keystream(seed: bytes, n_values: int) -> NDArray[np.uint32]:
    """Return the first ``n_values`` of the mask of ``seed``; uint32 [n_values]."""
    values = np.zeros(n_values, np.uint32)
    add_mask(values, seed)
    return values


def _apply(total: NDArray[np.uint32], seed: bytes, operation: np.ufunc) -> None:
    cipher = Cipher(algorithms.ChaCha20(seed, _FIRST_BLOCK), mode=None).encryptor()
    stream = bytearray(4 * min(_BLOCK_VALUES, total.size))
    words = np.frombuffer(stream, "<u4")
    for start in range(0, total.size, _BLOCK_VALUES):
        part = total[start : start + _BLOCK_VALUES]  # a view
        cipher.update_into(_ZEROS[: 4 * part.size], stream)
        operation(part, words[: part.size], out=part)
