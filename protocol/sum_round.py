"""A round whose updates go into a secure sum: the terms that its work brings, and the two messages of its steps.

    device   sum-step   one sealed message of ``protocol.secure_sum``
    service  sum-next   what the device needs for its next step

Laws: what a step says is opaque here and bounded by the length of a message; the plan that both sides sign follows from
the terms (``secure_sum.messages.SumPlan``). Needs no numpy, as the cryptography does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from protocol.bounds import MAX_EXAMPLES, MAX_MESSAGE_BYTES, MAX_ROUND
from protocol.fields import Bytes, FieldError, Hex, Length, Name, Range

__all__ = [
    "MAX_SUM_COHORT",
    "MIN_SUM_COHORT",
    "SumNext",
    "SumNextName",
    "SumStep",
    "SumStepName",
    "SumTerms",
]

# The messages of a secure sum in their order: what a device sends, and what it needs for the next.
SumStepName: TypeAlias = Literal["adverts", "shares", "inputs", "consents", "unmasking"]
SumNextName: TypeAlias = Literal["roster", "delivery", "survivors", "agreement"]
MIN_SUM_COHORT: Final = 3  # ``secure_sum.graph.MIN_COHORT``
MAX_SUM_COHORT: Final = 1000  # ``secure_sum.graph.MAX_COHORT``


@dataclass(frozen=True, slots=True, kw_only=True)
class SumTerms:
    """What a task's secure sums are agreed on; with fleet, task, round, version and size they are a ``SumPlan``."""

    clip: Annotated[float, Range(1e-12, 1e12)]
    weight_cap: Annotated[int, Range(1, MAX_EXAMPLES)]
    input_bits: Annotated[int, Range(2, 31)]
    min_cohort: Annotated[int, Range(MIN_SUM_COHORT, MAX_SUM_COHORT)]
    max_cohort: Annotated[int, Range(MIN_SUM_COHORT, MAX_SUM_COHORT)]
    corrupt_fraction: Annotated[float, Range(0, 0.99)]
    dropout_fraction: Annotated[float, Range(0, 0.99)]
    server: Literal["curious", "lying"]
    # Distributed privacy, absent without: see ``SumPlan``. Every device then counts the same.
    noise_levels: Annotated[int, Range(1, 2**31)] | None = None
    noise_multiplier: Annotated[float, Range(0.01, 1e4)] | None = None

    def __post_init__(self) -> None:
        """Refuse noise without room for it, the reverse, and devices that do not count the same under it."""
        if (self.noise_levels is None) != (self.noise_multiplier is None):
            raise FieldError("noise_levels, noise_multiplier: give both or neither")
        if self.noise_multiplier is not None and self.weight_cap != 1:
            raise FieldError(f"weight_cap: with a noise_multiplier it is 1, not {self.weight_cap}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStep:
    """One message of a device in a secure sum, sealed to the task's key (``sealing.step_binding``)."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    step: SumStepName
    update_id: Annotated[bytes, Bytes(16)]
    sealed: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumNext:
    """What a device needs for its next step; with a roster come its neighbours' certificates, where there are any."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    step: SumNextName
    message: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]
    certificates: Annotated[tuple[Annotated[bytes, Length(1, 4096)], ...], Length(0, MAX_SUM_COHORT)] = ()
    issuers: Annotated[tuple[Annotated[bytes, Length(1, 4096)], ...], Length(0, 4)] = ()  # the last is the root's own
