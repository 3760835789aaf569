"""Krum and multi-Krum: only deltas that lie close to many others are averaged.

Source:
    Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent,
    NeurIPS 2017, arXiv:1703.02757, section 4: the score of i is the sum of squared distances to its n - f - 2 closest
    others; multi-Krum averages the m best, Krum is m = 1. It promises something for n > 2 f + 2 only.
    Departures: a round with fewer updates than that takes one neighbour at least, and logs nothing of it; ties go to
    the first in the canonical order; the chosen count alike.
Reads the stored updates once for every ``passes.COLUMN_BYTES`` of their matrix, and once more. Memory besides: k x k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import uniform_mean
from aggregator.core.passes import columns, count
from aggregator.core.strategies.fedavg import init
from protocol.fields import Range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State

__all__ = ["STRATEGY", "Options", "chosen", "fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of multi-krum."""

    n_byzantine: Annotated[int, Range(0, 10**5)] = 1  # f: how many devices of a round may lie
    n_selected: Annotated[int, Range(1, 10**5)] | None = None  # m; n - f if absent, 1 for Krum itself


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the adapter moved by the mean of the chosen deltas; ``state`` itself if no update came."""
    options: Options = context.options or Options()
    n_updates = count(deltas)
    if n_updates == 0:
        return state
    distances = np.zeros((n_updates, n_updates), np.float64)
    for _, block in columns(deltas, context.layout.n_params, n_updates=n_updates):
        for index in range(n_updates):
            distances[index] += np.square(block - block[index], dtype=np.float64).sum(axis=1)  # [k]
    kept = chosen(distances, options)
    mean, _ = uniform_mean((one for index, one in enumerate(deltas) if index in kept), context.layout.n_params)
    return {ADAPTER: (state[ADAPTER] + mean).astype(np.float32)}


def chosen(distances: NDArray[np.float64], options: Options) -> frozenset[int]:
    """Return which updates are averaged, by their squared distances [k, k]."""
    n_updates = len(distances)
    n_near = max(1, n_updates - options.n_byzantine - 2)
    nearest_first = np.sort(distances, axis=1)[:, 1:]  # without the distance to itself
    scores = nearest_first[:, :n_near].sum(axis=1)  # [k]
    n_selected = options.n_selected or max(1, n_updates - options.n_byzantine)
    return frozenset(int(index) for index in np.argsort(scores, kind="stable")[:n_selected])


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="the mean of the deltas that lie close to most others",
    source="Blanchard et al. 2017, arXiv:1703.02757",
    needs=Needs(
        secure_sum=False,
        central_dp=False,
        memory="64 MiB of all deltas at a time, read from disk again for the next",
        engine="nothing",
    ),
    options=Options,
)
