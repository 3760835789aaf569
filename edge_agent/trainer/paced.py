"""An engine that takes its time: each pass of forward and backward lasts at least so long, as on a slower processor.

For rehearsals and benchmarks of fleets whose devices differ in speed, on one machine; a pass that takes longer by
itself is not slowed. Scores, and every number, are the engine's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from edge_agent.trainer.engines import Engine, ExampleEngine

__all__ = ["PacedEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedEngine:
    """Implements ``engines.Engine`` by another one."""

    engine: Engine
    least_pass_s: float
    clock_s: Callable[[], float] = field(default=time.monotonic)
    sleep_s: Callable[[float], None] = field(default=time.sleep)

    def loss_and_gradient(self, theta: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float32]]:
        """Return the engine's own, no sooner than ``least_pass_s`` after the call; errors as the engine's."""
        began_s = self.clock_s()
        result = self.engine.loss_and_gradient(theta, batch)
        self.sleep_s(max(0.0, self.least_pass_s - (self.clock_s() - began_s)))
        return result

    def clipped_points(
        self, theta: NDArray[np.float32], batch: Batch, *, counts: NDArray[np.float32], clip: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Return the engine's own, which must have them, no sooner than ``least_pass_s`` after the call."""
        began_s = self.clock_s()
        result = cast("ExampleEngine", self.engine).clipped_points(theta, batch, counts=counts, clip=clip)
        self.sleep_s(max(0.0, self.least_pass_s - (self.clock_s() - began_s)))
        return result

    def scores(self, theta: NDArray[np.float32], batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return the engine's own, at once."""
        return self.engine.scores(theta, batch)
