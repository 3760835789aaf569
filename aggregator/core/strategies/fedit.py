"""FedIT: the factors of LoRA are averaged; how far that is from averaging what they do is computed in every fold.

Source:
    Zhang et al.: Towards Building the Federated GPT: Federated Instruction Tuning, ICASSP 2024, arXiv:2305.05644: ``A
    = sum p_i A_i``, ``B = sum p_i B_i``.
    Departures: ``aggregation_error`` is ours: ``|sum p_i s B_i A_i - s B A|_F / |sum p_i s B_i A_i|_F`` over all pairs;
    0 where the mean of the factors is the mean of the products.
Memory: dense products within ``lora_pairs.DENSE_BYTES``, else more passes over the stored updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.lora_pairs import mean_products, product
from aggregator.core.strategies import fedavg
from protocol.lora_pairs import lora_pairs

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["AGGREGATION_ERROR", "STRATEGY", "aggregation_error", "fold", "init"]

AGGREGATION_ERROR: Final = "aggregation_error"


def init(layout: Layout, config: StrategyConfig) -> State:  # noqa: ARG001 - a strategy's signature
    """Return the bundle's adapter and an error of 0, float32 [1]."""
    return {ADAPTER: config.initial_adapter, AGGREGATION_ERROR: np.zeros(1, np.float32)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the mean factors and their error; ``state`` itself if no update came."""
    before = {ADAPTER: state[ADAPTER]}
    folded = fedavg.fold(before, deltas, context)
    if folded is before:
        return state
    error = aggregation_error(state, folded, deltas, context)
    return {**folded, AGGREGATION_ERROR: np.array([error], np.float32)}


def aggregation_error(before: State, after: State, deltas: Deltas, context: FoldContext) -> float:
    """Return how far the products of the mean factors are from the mean of the products, relative to the latter."""
    start = before[ADAPTER].astype(np.float64)
    difference = whole = 0.0
    for pair, mean in mean_products(deltas, lora_pairs(context.layout), lambda _, delta: start + delta):
        off = mean - product(pair.b_of(after[ADAPTER]), pair.a_of(after[ADAPTER]))  # [n_out, n_in]
        difference += pair.scale**2 * float(np.square(off).sum())
        whole += pair.scale**2 * float(np.square(mean).sum())
    return (difference / whole) ** 0.5 if whole > 0 else 0.0


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="the mean of LoRA's factors, with its aggregation error in the log",
    source="Zhang et al. 2024, arXiv:2305.05644",
    needs=Needs(
        layout="lora",
        secure_sum=False,
        central_dp=False,
        memory="dense products, at most 256 MiB at a time; two passes",
        engine="mean",
    ),
)
