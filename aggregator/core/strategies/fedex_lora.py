"""FedEx-LoRA: the factors are averaged, and what that leaves out goes into the base weights.

Source:
    Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation
    Models, ACL 2025, arXiv:2410.09432: ``W_0 <- W_0 + s (sum p_i B_i A_i - B A)`` with A, B the mean factors.
    Departures: weights are n_i / n, where the paper has 1 / k; the residual is taken against the mean factors as
    rounded
    to float32, so their rounding is corrected too.
``base`` is the change of the base weights so far, each pair's [n_out, n_in] after the other, float32. A bundle's base
is
frozen inside its ONNX graph, so devices cannot apply it: the strategy is refused at the start of a task.
Memory: the dense weights of all adapted layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.lora_pairs import lora_pairs, mean_products, product
from aggregator.core.strategies import fedavg
from aggregator.core.strategies.flora import stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["BASE", "STRATEGY", "fold", "init", "residual_factors"]

BASE: Final = "base"

F = TypeVar("F", bound=np.floating)


def residual_factors(
    factors: Sequence[tuple[NDArray[F], NDArray[F]]], weights: Sequence[float], mean: tuple[NDArray[F], NDArray[F]]
) -> tuple[NDArray[F], NDArray[F]]:
    """Return the residual sum w_i B_i A_i - B A as thin factors, [n_out, (k + 1) r] and [(k + 1) r, n_in].

    This is how it would travel: its rank is at most (k + 1) r, so it is never sent dense.
    """
    return stack([*factors, mean], [*weights, -1.0])


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter and no change of the base."""
    n_dense = sum(pair.n_dense for pair in lora_pairs(layout))
    return {ADAPTER: config.initial_adapter, BASE: np.zeros(n_dense, np.float32)}


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


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="the mean of LoRA's factors, its error corrected in the base weights: exact",
    source="Singhal et al. 2025, arXiv:2410.09432",
    needs=Needs(
        device="base weights that change every round",
        layout="lora",
        secure_sum=False,
        central_dp=False,
        memory="dense weights of all adapted layers",
        engine="mean",
        refusal="every round changes the base weights, which a bundle has frozen inside its graph",
    ),
)
