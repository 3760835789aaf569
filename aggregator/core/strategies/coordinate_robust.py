"""Coordinate-wise median and trimmed mean: a minority of liars moves no coordinate far.

Source:
    Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML
    2018, arXiv:1803.01498, definitions 1 and 2. Departures: none; devices count alike, whatever examples they claim.
Reads the stored updates once for every ``passes.COLUMN_BYTES`` of their matrix, since each coordinate needs all
devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.passes import columns, count
from aggregator.core.strategies.fedavg import init
from protocol.fields import Range

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State

__all__ = ["MEDIAN", "TRIMMED_MEAN", "TrimmedMeanOptions", "fold_median", "fold_trimmed_mean"]

_NEEDS: Final = Needs(
    secure_sum=False,
    central_dp=False,
    memory="64 MiB of all deltas at a time, read from disk again for the next",
    engine="nothing",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMeanOptions:
    """``[task.strategy_options]`` of trimmed-mean."""

    trimmed_fraction: Annotated[float, Range(0.0, 0.49)] = 0.1  # beta: cut off at either end, rounded down


def fold_median(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the adapter moved by the median of each coordinate; ``state`` itself if no update came."""
    n_updates = count(deltas)
    if n_updates == 0:
        return state
    adapter = state[ADAPTER].copy()
    for here, block in columns(deltas, context.layout.n_params, n_updates=n_updates):
        adapter[here] += np.median(block.astype(np.float64), axis=0)  # [k, chunk] -> [chunk]
    return {ADAPTER: adapter}


def fold_trimmed_mean(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the adapter moved by each coordinate's mean without its extremes; ``state`` itself if no update came."""
    options: TrimmedMeanOptions = context.options or TrimmedMeanOptions()
    n_updates = count(deltas)
    if n_updates == 0:
        return state
    n_cut = int(options.trimmed_fraction * n_updates)
    adapter = state[ADAPTER].copy()
    for here, block in columns(deltas, context.layout.n_params, n_updates=n_updates):
        kept = np.sort(block, axis=0)[n_cut : n_updates - n_cut]  # [k - 2 cut, chunk]
        adapter[here] += kept.mean(axis=0, dtype=np.float64)
    return {ADAPTER: adapter}


MEDIAN: Final = Strategy(
    init=init,
    fold=fold_median,
    title="the median of each coordinate",
    source="Yin et al. 2018, arXiv:1803.01498",
    needs=_NEEDS,
)
TRIMMED_MEAN: Final = Strategy(
    init=init,
    fold=fold_trimmed_mean,
    title="the mean of each coordinate without its extremes",
    source="Yin et al. 2018, arXiv:1803.01498",
    needs=_NEEDS,
    options=TrimmedMeanOptions,
)
