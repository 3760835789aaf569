"""``[task.privacy.dp]``: what a task promises to its devices. docs/privacy.md explains the choices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from aggregator.core.privacy.adaptive_clip import delta_noise_multiplier
from aggregator.core.privacy.central import AdaptiveTerms
from protocol.fields import FieldError, Length, Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.config import TaskSettings

__all__ = ["AdaptiveSettings", "DpSettings", "check_dp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveSettings:
    """``[task.privacy.dp.adaptive]``: the clip follows a quantile of the norms; defaults of arXiv:1905.03871."""

    quantile: Annotated[float, Range(0.01, 0.99)] = 0.5
    rate: Annotated[float, Range(0.001, 2.0)] = 0.2
    # sigma_b of the count of devices within the clip; None: cohort / 20, or more where the noise multiplier needs it.
    count_noise: Annotated[float, Range(0.01, 1e6)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DpSettings:
    """``[task.privacy.dp]``: differential privacy of whole devices, added where updates are folded."""

    # central: added where updates are folded; distributed: each device adds a share of it, and only sums are read.
    mode: Literal["central", "distributed"]
    epsilon: Annotated[float, Range(0.01, 1000.0)]  # of all the task's rounds together: the task stops there
    delta: Annotated[float, Range(1e-18, 0.01)]  # well below 1 / number of devices; no default would be right
    clip: Annotated[float, Range(1e-6, 1e6)]  # L2 norm of a device's whole delta; the first one if it adapts
    # None: as little as epsilon and rounds allow. Devices that add it themselves must be told one that stays.
    noise_multiplier: Annotated[float, Range(0.05, 1e4)] | None = None
    # "none": whoever comes first takes part, and no privacy is claimed from chance. "poisson": the service throws a
    # secret coin for each device and round, of probability cohort / population.
    sampling: Literal["none", "poisson"] = "none"
    population: Annotated[int, Range(1, 10**7)] | None = None
    adaptive: AdaptiveSettings | None = None
    # A second record of what was spent, which a restored database does not take back. None: beside the database; put it
    # where backups of service.folder do not reach.
    spent_file: Annotated[str, Length(1, 4096)] | None = None

    def __post_init__(self) -> None:
        """Refuse coins without a probability."""
        if (self.population is None) != (self.sampling == "none"):
            raise FieldError('population: needed with sampling = "poisson", and only there')
        if self.mode == "distributed":
            if self.population is not None or self.adaptive is not None:
                raise FieldError('mode: "distributed" takes neither sampling = "poisson" nor adaptive')
            if self.noise_multiplier is None:
                raise FieldError(
                    'noise_multiplier: needed with mode = "distributed"; see `edgefold privacy plan --sampling none`'
                )

    def resolved(self, resolve: Callable[[str], str]) -> DpSettings:
        """Return the settings with their paths made absolute."""
        return self if self.spent_file is None else dataclasses.replace(self, spent_file=resolve(self.spent_file))

    def sampling_rate(self, cohort: int) -> float:
        """Return the probability with which a device takes part in a round."""
        return 1.0 if self.population is None else cohort / self.population

    def adaptive_terms(self, noise_multiplier: float, cohort: int) -> AdaptiveTerms | None:
        """Return how the clip moves, if it does; sigma_b is enlarged where the noise multiplier needs it."""
        if self.adaptive is None:
            return None
        # At the paper's m / 20 the count costs next to nothing; small cohorts need at least the noise multiplier
        # itself, with which the deltas' noise is 1.15 times the multiplier.
        count_noise = self.adaptive.count_noise or max(cohort / 20, noise_multiplier)
        return AdaptiveTerms(
            quantile=self.adaptive.quantile,
            rate=self.adaptive.rate,
            count_noise=count_noise,
            initial_clip=self.clip,
        )


def check_dp(task: TaskSettings) -> None:
    """Refuse a promise that the task's other settings break.

    Raises:
        FieldError: with the key (the user's fault).
    """
    dp = task.privacy.dp
    if dp is None:
        return
    if task.privacy.is_secure_sum and dp.mode == "central":
        raise FieldError(
            'privacy.dp.mode: "central" adds noise where single updates are read, and with privacy.level = '
            '"secure-sum" none is; take level "sealed", or mode "distributed"'
        )
    if dp.mode == "distributed" and not task.privacy.is_secure_sum:
        raise FieldError(
            'privacy.dp.mode: "distributed" leaves each update with a share of the noise, which hides only sums; take '
            'privacy.level = "secure-sum", or mode "central"'
        )
    if dp.population is not None:
        if dp.population < task.cohort:
            raise FieldError(f"privacy.dp.population: {dp.population} is less than cohort = {task.cohort}")
        if task.selection.over_select != 1 or task.selection.gather_s != 0:
            raise FieldError(
                "selection: over_select and gather_s choose one device for another's sake, which privacy.dp.sampling = "
                '"poisson" may not'
            )
        if task.min_cohort != 1:
            raise FieldError(
                'min_cohort: must be 1 with privacy.dp.sampling = "poisson": a round that is folded only if enough '
                "devices came would tell how many came"
            )
    if dp.adaptive is not None and dp.adaptive.count_noise is not None and dp.noise_multiplier is not None:
        try:
            delta_noise_multiplier(dp.noise_multiplier, dp.adaptive.count_noise)
        except ValueError as error:
            raise FieldError(f"privacy.dp.adaptive.count_noise: {error}") from error
