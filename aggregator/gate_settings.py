"""``[task.gate]``: which versions may reach devices. The rule is ``core.gates``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from protocol.fields import Length, Name, Range

__all__ = ["GateSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """When a version is promoted.

    Attributes:
        metric: what is compared with the promoted version before it: ``accuracy`` (a fraction) or ``loss``.
        margin: by how much it may be worse; 0.01 is one point of accuracy.
        sets: evaluation sets that must each hold; none: all examples together.
    """

    metric: Literal["accuracy", "loss"] = "accuracy"
    margin: Annotated[float, Range(0.0, 1e3)] = 0.0
    sets: Annotated[tuple[Name, ...], Length(0, 64)] = ()
