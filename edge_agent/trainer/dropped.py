"""An engine whose every step gets the dropout masks that its graph asks for.

Laws: masks are a function of the seed, the adapter and the batch (``host.dropout_masks``), so an engine still keeps no
state; scores drop nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from host.dropout_masks import masks_of_step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from edge_agent.trainer.engines import Engine
    from protocol.dropout import DropoutFacts

__all__ = ["DroppedEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedEngine:
    """Implements ``engines.Engine`` by another one."""

    engine: Engine
    facts: DropoutFacts
    seed: int

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the engine's own with values dropped; errors as the engine's."""
        return self.engine.loss_and_gradient(theta, batch | masks_of_step(self.facts, theta, batch, seed=self.seed))

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return the engine's own."""
        return self.engine.scores(theta, batch)
