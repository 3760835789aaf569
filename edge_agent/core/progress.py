"""How a device that learns on is doing: average accuracy, forgetting, backward transfer.

a_ij is the accuracy on the exam of stretch j after stretch i was learnt; T is the last stretch.

    average accuracy   mean_j a_Tj
    forgetting         mean_{j<T} (max_{i<T} a_ij - a_Tj)
    backward transfer  mean_{j<T} (a_Tj - a_jj)

Source: Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning", arXiv:1801.10112, section 3 (forgetting);
Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory", arXiv:1706.08840, section 2 (the others). Departure: forgetting
compares with stretches i >= j alone, since before that the exam's examples had not come.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Progress", "progress_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """All as fractions; the last two are None before there is a second stretch."""

    n_stretches: int
    average_accuracy: float
    forgetting: float | None = None
    backward_transfer: float | None = None


def progress_of(rows: Sequence[Sequence[float]]) -> Progress | None:
    """Return the figures of ``rows``, row i with a_i0 to a_ii (more are not looked at); None if there are none."""
    if not rows:
        return None
    last = len(rows) - 1
    final = [float(rows[last][j]) for j in range(last + 1)]
    average = statistics.fmean(final)
    if last == 0:
        return Progress(n_stretches=1, average_accuracy=average)
    best = [max(float(rows[i][j]) for i in range(j, last)) for j in range(last)]
    return Progress(
        n_stretches=last + 1,
        average_accuracy=average,
        forgetting=statistics.fmean(best[j] - final[j] for j in range(last)),
        backward_transfer=statistics.fmean(final[j] - float(rows[j][j]) for j in range(last)),
    )
