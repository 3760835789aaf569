"""FedEx-LoRA: the factors are averaged, and what that leaves out goes into the base weights.

Source:
    Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation
    Models, ACL 2025, arXiv:2410.09432: ``W_0 <- W_0 + s (sum p_i B_i A_i - B A)`` with A, B the mean factors.
    Departures: weights are n_i / n, where the paper has 1 / k; the residual is taken against the mean factors as
    rounded to float32, so their rounding is corrected too; the residuals of all rounds go out as one dense sum, where
    the paper sends each round's thin factors: a device that missed rounds needs all of them, and no device is shown
    another's factors.
See ``aggregator/core/base_change.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.core.base_change import BASE, NEEDS, adapter_and_base, no_change
from aggregator.core.folding import ADAPTER, Strategy
from aggregator.core.lora_pairs import mean_products, product
from aggregator.core.strategies import fedavg
from protocol.lora_pairs import lora_pairs
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig, TermsContext
    from protocol.layout import Layout

__all__ = ["STRATEGY", "fold", "init", "terms"]


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter and no change of the base."""
    return {ADAPTER: config.initial_adapter, BASE: no_change(layout)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the mean factors and the base with their residual in it; ``state`` itself if no update came."""
    before = {ADAPTER: state[ADAPTER]}
    averaged = fedavg.fold(before, deltas, context)
    if averaged is before:
        return state
    start, after = state[ADAPTER].astype(np.float64), averaged[ADAPTER]
    products = mean_products(deltas, lora_pairs(context.layout), lambda _, delta: start + delta)
    residuals = [
        pair.scale * (mean - product(pair.b_of(after), pair.a_of(after))).reshape(-1) for pair, mean in products
    ]
    return {**averaged, BASE: (state[BASE] + np.concatenate(residuals)).astype(np.float32)}


def terms(options: Any, context: TermsContext) -> DeviceTerms:  # noqa: ANN401, ARG001 - a strategy's signature
    """Return that the base's change comes with the adapter."""
    return DeviceTerms(base_change=True)


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="the mean of LoRA's factors, its error corrected in the base weights: exact",
    source="Singhal et al. 2025, arXiv:2410.09432",
    needs=NEEDS,
    terms=terms,
    broadcast=adapter_and_base,
)
