"""``[privacy]`` of a device: on what terms it takes part, whatever the service asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from protocol.fields import Length, Range
from protocol.messages import MAX_SUM_COHORT, MIN_SUM_COHORT, SumTerms

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

    def why_not(self, terms: SumTerms | None) -> str | None:
        """Return why this device takes no part on these terms, or None if it does."""
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
