"""Notices that a stream's errors have become more: the Page-Hinkley test.

    m_t = sum_{i<=t} (x_i - mean_i - tolerance),    drift when m_t - min_{i<=t} m_i > threshold

Laws: a value in, a value and a verdict out; after a drift it begins anew; nothing is said before ``warm_up`` values, of
which the mean would be chance. Memory: five numbers.

Source: Page 1954, "Continuous Inspection Schemes", Biometrika 41; in this form Gama et al. 2014, "A Survey on Concept
Drift Adaptation", ACM CSUR 46(4), section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from protocol.fields import Range

__all__ = ["DriftState", "watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """What the test remembers."""

    n: Annotated[int, Range(0, 2**53)] = 0
    mean: Annotated[float, Range(-1e9, 1e9)] = 0.0
    total: Annotated[float, Range(-1e15, 1e15)] = 0.0
    least: Annotated[float, Range(-1e15, 1e15)] = 0.0


def watch(
    state: DriftState, error: float, *, tolerance: float, threshold: float, warm_up: int
) -> tuple[DriftState, bool]:
    """Return the state after one more ``error`` (0 or 1, or any loss), and whether the stream has drifted.

    Args:
        state: after the values before.
        error: of the model on one example, taken before it was trained on.
        tolerance: how far above its mean an error may lie for nothing.
        threshold: the larger, the later and the surer.
        warm_up: values before the first verdict.
    """
    n = state.n + 1
    mean = state.mean + (error - state.mean) / n
    total = state.total + error - mean - tolerance
    after = replace(state, n=n, mean=mean, total=total, least=min(state.least, total))
    if n >= warm_up and total - after.least > threshold:
        return DriftState(), True
    return after, False
