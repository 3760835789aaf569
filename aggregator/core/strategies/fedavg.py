"""Federated averaging: the next adapter is the old one plus the mean delta, weighted by examples.

Source:
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from
    Decentralized Data, AISTATS 2017, arXiv:1602.05629, Algorithm 1: ``w_{t+1} <- sum_k (n_k / m_t) w^k_{t+1}``.
    Departures: deltas are averaged, not weights, which is the same as long as all clients began at the same point; the
    erratum's m_t (examples of this round's clients) is the divisor; n_k is capped where the update is accepted.
Memory: three float64 vectors of the adapter's size and a few deltas (``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import mean_delta

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["STRATEGY", "fold", "init"]


def init(layout: Layout, config: StrategyConfig) -> State:  # noqa: ARG001 - a strategy's signature
    """Return the state before the first round: the bundle's adapter."""
    return {ADAPTER: config.initial_adapter}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one round; ``state`` itself if no update came.

    The sum runs in float64 in the order of ``deltas`` and is rounded to float32 once.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    mean = mean_delta(deltas, context.layout.n_params)  # [n_params]
    if mean is None:
        return state
    mean += state[ADAPTER]
    return {ADAPTER: mean.astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="the mean of the deltas, weighted by examples",
    source="McMahan et al. 2017, arXiv:1602.05629",
    needs=Needs(secure_sum=True, central_dp=True),
)
