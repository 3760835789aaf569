"""FedProx's term on a device: the gradient of mu / 2 |w - w_t|^2.

Laws: w_t is a vector of its own, never a view of what is trained (a known implementation kept live references, and its
term was always zero); with mu = 0 or none the gradient is returned as it is, so nothing differs by a bit.

Source: Li et al. 2020, arXiv:1812.06127, Algorithm 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["with_proximal_term"]


def with_proximal_term(
    gradient: NDArray[np.float32], theta: NDArray[np.float32], anchor: NDArray[np.float32], mu: float | None
) -> NDArray[np.float32]:
    """Return ``gradient + mu (theta - anchor)``, float32 of their shape; ``gradient`` itself if there is no mu."""
    if not mu:
        return gradient
    return gradient + np.float32(mu) * (theta - anchor)
