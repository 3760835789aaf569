"""From mechanisms to epsilon and back, by ``dp-accounting`` (privacy loss distributions; Renyi divergences far out).

Must live here: which event stands for our fold. Does not know about: budgets, settings, storage. Loads scipy and 90 MB
when it is first called, so the service asks ``adapters.accountant``, which calls it in a process of its own.
Bounds: where even the looser Renyi accountant says more than ``_FAR``, its figure is taken: the other's time and memory
grow with epsilon, and nobody decides anything by such a figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from aggregator.core.privacy.ledger import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MAX_NOISE_MULTIPLIER", "MIN_NOISE_MULTIPLIER", "epsilon_of", "noise_for"]

MIN_NOISE_MULTIPLIER: Final = 0.05  # below, a single fold costs an epsilon of hundreds
MAX_NOISE_MULTIPLIER: Final = 1e4
_FAR: Final = 60.0
# Integers alone: the library's fractional orders are slow and do not always converge under sampling.
_ORDERS: Final = (*range(2, 64), 80, 96, 128, 192, 256, 512, 1024)
_TOLERANCE: Final = 1e-3  # relative, of a noise multiplier that is searched


def epsilon_of(steps: Sequence[Step], *, delta: float) -> float:
    """Return the epsilon of ``steps`` together, never too small by more than the accountant's own grid; 0 for none.

    Raises:
        ValueError: a step that is none (the caller's fault).
    """
    event = _event(steps)
    if event is None:
        return 0.0
    from dp_accounting import pld  # noqa: PLC0415 - see above

    loose = _renyi(event, delta=delta)
    if loose > _FAR:
        return loose
    return min(loose, float(pld.PLDAccountant().compose(event).get_epsilon(delta)))


def noise_for(
    spent: Sequence[Step], *, n_rounds: int, sampling_rate: float, epsilon: float, delta: float
) -> float | None:
    """Return the smallest noise multiplier with which ``n_rounds`` more stay within ``epsilon``; None if none does."""

    def fits(noise_multiplier: float) -> bool:
        more = Step(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, count=n_rounds)
        return epsilon_of((*spent, more), delta=delta) <= epsilon

    def fits_loosely(noise_multiplier: float) -> bool:
        more = Step(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, count=n_rounds)
        return _renyi(_event((*spent, more)), delta=delta) <= epsilon

    # The looser accountant is some times faster and finds an upper end.
    high = _smallest(fits_loosely, 1.0, tolerance=0.05)
    if high is None:
        return _smallest(fits, MAX_NOISE_MULTIPLIER, tolerance=_TOLERANCE)
    return _smallest(fits, high, tolerance=_TOLERANCE)


def _smallest(fits: Callable[[float], bool], guess: float, *, tolerance: float) -> float | None:
    """Return the smallest noise multiplier that ``fits``, which holds above it; None if none does."""
    high = guess
    while not fits(high):
        high *= 2
        if high > MAX_NOISE_MULTIPLIER:
            return None
    factor, low = 0.8, 0.8 * high
    while low > MIN_NOISE_MULTIPLIER and fits(low):
        factor **= 2
        high, low = low, low * factor
    low = max(low, MIN_NOISE_MULTIPLIER)
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _renyi(event: Any, *, delta: float) -> float:  # noqa: ANN401 - dp_accounting ships no types
    from dp_accounting import rdp  # noqa: PLC0415 - see above

    return float(rdp.RdpAccountant(_ORDERS).compose(event).get_epsilon(delta))


def _event(steps: Sequence[Step]) -> Any:  # noqa: ANN401 - dp_accounting ships no types
    import dp_accounting  # noqa: PLC0415 - see above

    events: list[Any] = []
    precision = 0.0  # Gaussians without sampling are together exactly one Gaussian
    for step in steps:
        if not (step.noise_multiplier > 0 and 0 < step.sampling_rate <= 1 and step.count >= 0):
            raise ValueError(f"{step} is no mechanism")
        if step.sampling_rate == 1:
            precision += step.count / step.noise_multiplier**2
        elif step.count:
            gaussian = dp_accounting.GaussianDpEvent(step.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(step.sampling_rate, gaussian)
            events.append(dp_accounting.SelfComposedDpEvent(sampled, step.count))
    if precision > 0:
        events.append(dp_accounting.GaussianDpEvent(precision**-0.5))
    return dp_accounting.ComposedDpEvent(events) if events else None
