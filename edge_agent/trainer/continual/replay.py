"""Experience replay: a part of every step's gradient is of examples kept from before.

Laws: an endless stream; each kept example comes once before any comes again; the order depends on the generator alone.

Source: Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning", arXiv:1902.10486. Departure: new and
kept examples are two batches whose gradients are mixed by weight, which is one batch of both in expectation and needs
no common shape. Which examples are kept: ``edge_agent.core.reservoir``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.trainer.batches import shuffled_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch, Dataset

__all__ = ["mixed", "replayed_batches"]


def replayed_batches(kept: Dataset, *, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield batches of ``kept``, at least one example long, for ever."""
    while True:
        yield from shuffled_batches(kept, batch_size=batch_size, rng=rng)


def mixed(new: NDArray[np.float32], kept: NDArray[np.float32], *, fraction: float) -> NDArray[np.float32]:
    """Return ``(1 - fraction) new + fraction kept``, float32 of their shape."""
    return np.float32(1 - fraction) * new + np.float32(fraction) * kept
