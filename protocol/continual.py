"""What a plan may ask of a device so that it does not forget what it learnt before; the device does it by itself.

All absent, nothing is asked. The terms add up: replay mixes gradients, the other two add to them
(``edge_agent.trainer.continual``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Range

__all__ = ["ContinualTerms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualTerms:
    """How a device holds on to what its earlier examples taught it."""

    # Of each step's gradient, so much is of examples kept from before; the device keeps them, nobody sees them.
    replay_fraction: Annotated[float, Range(0.01, 0.99)] | None = None
    # Weight of the quadratic pull towards the parameters after the stretch before, by Fisher information (EWC).
    ewc_strength: Annotated[float, Range(0.0, 1e9)] | None = None
    ewc_decay: Annotated[float, Range(0.0, 1.0)] | None = None  # of the information of stretches before; 1 if absent
    # Weight of the loss against what the model said before the stretch (learning without forgetting).
    lwf_weight: Annotated[float, Range(0.0, 1e3)] | None = None

    @property
    def needs_memory(self) -> bool:
        """Whether parameters, and how much each mattered, are kept from stretch to stretch."""
        return self.ewc_strength is not None or self.lwf_weight is not None
