"""SCAFFOLD on a device: steps corrected by two control variates, and the change of the device's own.

Laws: c + (c_i+ - c_i) as the service decodes it is what the device keeps, so both ends agree on c_i whatever the codec
rounds away; without local steps nothing changes. Memory: three vectors of the adapter's size.

Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, option II.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Controls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The control variates of one round, each float32 [n_params]."""

    service: NDArray[np.float32]  # c
    own: NDArray[np.float32]  # c_i

    def corrected(self, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``g - c_i + c``."""
        return gradient - self.own + self.service

    def change(
        self, start: NDArray[np.float32], end: NDArray[np.float32], *, n_steps: int, learning_rate: float
    ) -> NDArray[np.float32]:
        """Return ``c_i+ - c_i = (x - y) / (K eta) - c`` after ``n_steps`` of plain SGD from ``start`` to ``end``."""
        if n_steps == 0:
            return np.zeros_like(start)
        return (start - end) / np.float32(n_steps * learning_rate) - self.service
