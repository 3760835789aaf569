"""The deltas that virtual devices send: a few random vectors, encoded once, so that sending costs sealing and no more.

Laws: the same seed, size and plan give the same bytes in every process, so a checker can make them again; each vector
keeps the plan's clip.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol import codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protocol.plan import Plan

__all__ = ["POOL_SIZE", "DeltaPool"]

POOL_SIZE: Final = 8  # enough that a fold of the wrong ones shows
_NORM: Final = 1.0  # of a delta; what MiniLM's adapter moves in a round


class DeltaPool:
    """``POOL_SIZE`` encoded deltas for one task."""

    def __init__(self, plan: Plan, *, n_params: int, seed: int) -> None:
        """Make them."""
        self._n_params = n_params
        norm = min(_NORM, plan.clip_update_norm or _NORM)
        rng = np.random.default_rng([seed, n_params])
        self._encoded = [
            codec.encode(rng.normal(0, norm / math.sqrt(n_params), n_params).astype(np.float32) * 0.9, plan.codec)
            for _ in range(POOL_SIZE)
        ]

    def encoded(self, number: int) -> bytes:
        """Return a delta's payload."""
        return self._encoded[number]

    def decoded(self, number: int) -> NDArray[np.float32]:
        """Return what a service decodes, float32 [n_params]."""
        return codec.decode(self._encoded[number], n_values=self._n_params)
