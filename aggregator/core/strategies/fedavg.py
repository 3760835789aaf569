"""Federated averaging: the next adapter is the old one plus the mean delta, weighted by examples.

Source:
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from
    Decentralized Data, AISTATS 2017, arXiv:1602.05629, Algorithm 1: ``w_{t+1} <- sum_k (n_k / m_t) w^k_{t+1}``.
    Departures: deltas are averaged, not weights, which is the same as long as all clients began at the same point; the
    erratum's m_t (examples of this round's clients) is the divisor; n_k is capped where the update is accepted.
Memory: two float64 vectors of the adapter's size and one delta at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator.core.blocked import add_weighted
from aggregator.core.folding import ADAPTER

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["fold", "init"]


def init(layout: Layout, config: StrategyConfig) -> State:  # noqa: ARG001 - a strategy's signature
    """Return the state before the first round: the bundle's adapter."""
    return {ADAPTER: config.initial_adapter}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one round; ``state`` itself if no update came.

    The sum runs in float64 in the order of ``deltas`` and is rounded to float32 once.

    Raises:
        ValueError: ``n_examples`` is not positive (the caller's fault).
    """
    total = np.zeros(context.layout.n_params, np.float64)  # [n_params]
    n_total = 0
    for delta, n_examples in deltas:
        if n_examples <= 0:
            raise ValueError(f"n_examples is {n_examples}, expected a positive number")
        add_weighted(total, delta, n_examples)
        n_total += n_examples
    if n_total == 0:
        return state
    total /= n_total
    total += state[ADAPTER]
    return {ADAPTER: total.astype(np.float32)}
