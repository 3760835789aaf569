"""``[task.privacy]``: who may read what of a task's updates. A table of its own for each defence.

Laws: a level is never left by itself (a round that cannot be summed is abandoned, not folded another way); what devices
must know is in ``SumTerms``, which every work message carries, so that a device can refuse.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from aggregator.dp_settings import DpSettings  # noqa: TC001 - read from the annotation at run time
from protocol.bounds import MAX_EXAMPLES
from protocol.fields import FieldError, Range
from protocol.sum_round import MAX_SUM_COHORT, MIN_SUM_COHORT, SumTerms

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PrivacySettings", "SecureSumSettings"]

_Fraction = Annotated[float, Range(0, 0.99)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSumSettings:
    """``[task.privacy.secure_sum]``: docs/secure-sum.md says what each figure costs."""

    # Of every value of a delta; adapters' deltas of one round lie well below 0.1. Smaller is finer: a level is
    # clip / 2**(input_bits - 1). A delta beyond it is scaled down as a whole, on the device.
    clip: Annotated[float, Range(1e-6, 1e6)] = 0.5
    # A device with more examples counts as one with so many. A device with few of them loses log2(cap / examples) bits.
    weight_cap: Annotated[int, Range(1, MAX_EXAMPLES)] = 1000
    input_bits: Annotated[int, Range(2, 31)] = 16
    corrupt_fraction: _Fraction = 0.05  # devices that may work with the server
    dropout_fraction: _Fraction = 0.1  # devices that may fall silent in a round
    server: Literal["curious", "lying"] = "lying"  # lying: needs more neighbours, protects against more
    # Of each step after the first, whose deadline is the round's: a step takes a device well under a second.
    step_deadline_s: Annotated[float, Range(0.5, 1e6)] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """``[task.privacy]``."""

    level: Literal["sealed", "secure-sum"] = "sealed"  # sealed: the aggregator reads single updates, nobody else does
    # The adapter goes to each device under a key that the device made for this round: 1.1 kB and one sealing more.
    seal_adapter: bool = False
    # A new key to seal to every so many rounds, the old one destroyed; None: one for the task's life.
    rotate_key_rounds: Annotated[int, Range(1, 10**6)] | None = None
    secure_sum: SecureSumSettings = field(default_factory=SecureSumSettings)
    dp: DpSettings | None = None

    def __post_init__(self) -> None:
        """Refuse to rotate a key that sampling is drawn from."""
        if self.rotate_key_rounds is not None and self.draws_from_task_key:
            raise FieldError("rotate_key_rounds: dp.sampling = 'poisson' is drawn from the task's key, which must stay")

    @property
    def draws_from_task_key(self) -> bool:
        """Whether the task's key also decides who is sampled."""
        return self.dp is not None and self.dp.sampling == "poisson"

    @property
    def is_secure_sum(self) -> bool:
        """Whether only sums are read."""
        return self.level == "secure-sum"

    def resolved(self, resolve: Callable[[str], str]) -> PrivacySettings:
        """Return the settings with their paths made absolute."""
        return self if self.dp is None else dataclasses.replace(self, dp=self.dp.resolved(resolve))

    def check_cohort(self, cohort: int, min_cohort: int) -> None:
        """Refuse cohorts that no secure sum takes.

        Raises:
            FieldError: the task's ``cohort`` or ``min_cohort`` is too small or too large (the user's fault).
        """
        if self.is_secure_sum and not MIN_SUM_COHORT <= min_cohort <= cohort <= MAX_SUM_COHORT:
            raise FieldError(
                f"min_cohort: a secure sum takes {MIN_SUM_COHORT} to {MAX_SUM_COHORT} devices, min_cohort is "
                f"{min_cohort} and cohort {cohort}"
            )

    def terms(self, cohort: int, min_cohort: int) -> SumTerms | None:
        """Return what devices are told, or None where single updates are taken; of noise, ``noisy_terms`` says more."""
        one = self.secure_sum
        if not self.is_secure_sum:
            return None
        clip, weight_cap = (one.clip, one.weight_cap) if self.dp is None else (self.dp.clip, 1)
        return SumTerms(
            clip=clip,
            weight_cap=weight_cap,
            input_bits=one.input_bits,
            min_cohort=min_cohort,
            max_cohort=cohort,
            corrupt_fraction=one.corrupt_fraction,
            dropout_fraction=one.dropout_fraction,
            server=one.server,
        )
