"""Elastic weight consolidation: what mattered before is held by a spring, each parameter by its own.

    loss + strength / 2 sum_j F_j (w_j - w*_j)^2,    F_j = mean over examples of (d log p(y|x) / d w_j)^2 at w*

Laws: float32 in and out, squares are summed in float64; without a memory the gradient is returned as it is.

Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", arXiv:1612.00796, eq. 3; one
spring for all stretches, its information decaying by ``decay``: Schwarz et al. 2018, "Progress & Compress",
arXiv:1805.06370, section 4 (online EWC). Departures: F is the empirical Fisher information (y is the example's own
label, not drawn from the model), and its mean is scaled to one, so that ``strength`` means the same for every model and
adapter. On LoRA's factors F depends on their basis, which a device never changes between stretches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch, Dataset

__all__ = ["Memory", "consolidated", "fisher_information", "with_spring"]

N_EXAMPLES = 64  # of a stretch: each is a step of a batch of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is kept of all stretches before.

    Attributes:
        anchor: the parameters at the end of the last stretch, float32 [n_params].
        fisher: how much each mattered, float32 [n_params], not negative, its mean one.
    """

    anchor: NDArray[np.float32]
    fisher: NDArray[np.float32]


def with_spring(
    gradient: NDArray[np.float32], theta: NDArray[np.float32], memory: Memory | None, strength: float | None
) -> NDArray[np.float32]:
    """Return ``gradient + strength F (theta - anchor)``; ``gradient`` itself without memory or strength."""
    if memory is None or not strength:
        return gradient
    return gradient + np.float32(strength) * memory.fisher * (theta - memory.anchor)


def fisher_information(
    loss_and_gradient: Callable[[NDArray[np.float32], Batch], tuple[float, NDArray[np.float32]]],
    theta: NDArray[np.float32],
    data: Dataset,
    *,
    rng: np.random.Generator,
    n_examples: int = N_EXAMPLES,
) -> NDArray[np.float32]:
    """Return the empirical Fisher information of at most ``n_examples``, drawn by ``rng``, float32 [n_params].

    Raises:
        EngineError: a gradient is not finite.
    """
    total = np.zeros(theta.size, np.float64)
    rows = rng.permutation(len(data))[:n_examples]
    for row in rows:
        _, gradient = loss_and_gradient(theta, data.batch([int(row)]))
        if not np.isfinite(gradient).all():
            raise EngineError("the information of an example is not finite: the adapter has diverged")
        total += np.square(gradient, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


def consolidated(
    before: Memory | None, theta: NDArray[np.float32], fisher: NDArray[np.float32], *, decay: float = 1.0
) -> Memory:
    """Return the memory after a stretch that ended at ``theta`` with information ``fisher``, float32 [n_params]."""
    mean = float(fisher.mean(dtype=np.float64))
    scaled = fisher / np.float32(mean) if mean > 0 else fisher
    total = scaled if before is None else np.float32(decay) * before.fisher + scaled
    return Memory(anchor=theta.copy(), fisher=total.astype(np.float32))
