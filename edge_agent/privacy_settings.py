"""``[privacy]`` of a device: on what terms it takes part, whatever the service asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from protocol.fields import FieldError, Length, Range
from protocol.metrics import MetricName  # noqa: TC001 - structure() resolves the annotations
from protocol.secure_sum.noise_claim import claimed_multiplier, epsilon_at
from protocol.sum_round import MAX_SUM_COHORT, MIN_SUM_COHORT, SumTerms

__all__ = ["PrivacySettings"]

_Fraction = Annotated[float, Range(0, 0.99)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """``[privacy]``: a round that does not meet these is not taken part in."""

    require: Literal["sealed", "secure-sum"] = "sealed"  # secure-sum: this device sends no update that anybody can read
    min_cohort: Annotated[int, Range(MIN_SUM_COHORT, MAX_SUM_COHORT)] = (
        MIN_SUM_COHORT  # fewer devices in a sum hide less
    )
    min_corrupt_fraction: _Fraction = 0.0  # of the devices, that may work with the server
    max_dropout_fraction: _Fraction = 0.5  # the more may drop out, the fewer may be left in the sum
    server: Literal["curious", "lying"] = "curious"  # lying: insists on protection against a server that lies
    # Whose signing keys to believe: a file with [devices] NAME = "64 hex digits", written by this device's owner.
    # Without it a device that enrolled believes its fleet's authority; one that did not takes part in no secure sum.
    directory: Annotated[str, Length(1, 4096)] | None = None
    # Without a word from the service for so long a sum is given up and its secrets are removed.
    give_up_s: Annotated[float, Range(1, 1e6)] = 3600.0
    keep_deltas: bool = (
        False  # for tests and demonstrations: keep what went into a sum, readable, in the agent's folder
    )

    # Of all sums with distributed noise together, whatever their task; with it, no update goes out without such noise.
    max_epsilon: Annotated[float, Range(0.01, 1000)] | None = None
    delta: Annotated[float, Range(1e-18, 0.01)] | None = None

    # Of all trainings with noise on single examples (plan.dp) together, whatever their task; with it no other is done.
    max_sample_epsilon: Annotated[float, Range(0.01, 1000)] | None = None
    sample_delta: Annotated[float, Range(1e-18, 0.01)] | None = None
    # With max_sample_epsilon: believe a bundle's graph that clips many examples at once. Without this each is taken
    # alone, slower, and then no bundle, whoever made it, can let one example count for more than the clip.
    trust_per_example: bool = False

    # Figures of how this device learns that may go with its updates, where a task asks for them: docs/continual.md.
    metrics: Annotated[tuple[MetricName, ...], Length(0, 16)] = ()

    def __post_init__(self) -> None:
        """Refuse half a promise."""
        if (self.max_epsilon is None) != (self.delta is None):
            raise FieldError("max_epsilon, delta: give both or neither")
        if (self.max_sample_epsilon is None) != (self.sample_delta is None):
            raise FieldError("max_sample_epsilon, sample_delta: give both or neither")

    def why_not(self, terms: SumTerms | None, *, precision: float = 0.0) -> str | None:
        """Return why this device takes no part on these terms, or None if it does.

        Args:
            terms: of the sum, or None where a sealed update is asked for.
            precision: what was claimed before, see ``noise_claim.epsilon_at``.
        """
        return self._weaker(terms) or self._beyond(terms, precision)

    def _beyond(self, terms: SumTerms | None, precision: float) -> str | None:
        if self.max_epsilon is None or self.delta is None:
            return None
        if terms is None or terms.noise_multiplier is None:
            return "its devices add no noise, privacy.max_epsilon is set"
        epsilon = epsilon_at(precision + claimed_multiplier(terms) ** -2, delta=self.delta)
        if epsilon <= self.max_epsilon:
            return None
        return f"epsilon would be {epsilon:.4g} at delta {self.delta:g}, privacy.max_epsilon is {self.max_epsilon:g}"

    def _weaker(self, terms: SumTerms | None) -> str | None:
        if terms is None:
            return "it asks for a sealed update, privacy.require is secure-sum" if self.require != "sealed" else None
        if terms.min_cohort < self.min_cohort:
            return f"a cohort may have {terms.min_cohort} devices, privacy.min_cohort is {self.min_cohort}"
        if terms.corrupt_fraction < self.min_corrupt_fraction:
            return f"corrupt_fraction is {terms.corrupt_fraction}, at least {self.min_corrupt_fraction} is asked for"
        if terms.dropout_fraction > self.max_dropout_fraction:
            return f"dropout_fraction is {terms.dropout_fraction}, at most {self.max_dropout_fraction} is allowed"
        if self.server == "lying" and terms.server != "lying":
            return "it protects against a curious server alone, privacy.server is lying"
        return None
