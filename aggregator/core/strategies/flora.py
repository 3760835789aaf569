"""FLoRA: stacked factors add up exactly; their sum goes into the base weights, and LoRA begins anew.

Source:
    Wang et al.: FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations, NeurIPS 2024, arXiv:2409.05976: ``[B_1 .. B_K] [p_1 A_1; ..; p_K A_K] = sum p_k B_k A_k``.
    Departures: the scale s of each pair multiplies the sum (the authors' code leaves it out where alpha = 2 r for all);
    tensors that are not LoRA are averaged.
``base`` is the change of the base weights so far, each pair's [n_out, n_in] after the other, float32. A bundle's base
is
frozen inside its ONNX graph, so devices cannot apply it: the strategy is refused at the start of a task.
Memory: the dense weights of all adapted layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.lora_pairs import lora_pairs, mean_products, other_slots
from aggregator.core.strategies import fedavg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["BASE", "STRATEGY", "fold", "init", "stack"]

BASE: Final = "base"
_INITIAL: Final = "initial"

F = TypeVar("F", bound=np.floating)


def stack(factors: Sequence[tuple[NDArray[F], NDArray[F]]], weights: Sequence[float]) -> tuple[NDArray[F], NDArray[F]]:
    """Return B_st [n_out, sum r_k] and A_st [sum r_k, n_in] of pairs (B_k [n_out, r_k], A_k [r_k, n_in]), any ranks.

    Only A carries the weights: B_st A_st is then sum w_k B_k A_k.
    """
    stacked_b = np.concatenate([b for b, _ in factors], axis=1)
    stacked_a = np.concatenate([weight * a for weight, (_, a) in zip(weights, factors, strict=True)], axis=0)
    return stacked_b, stacked_a


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter, twice since LoRA returns to it, and no change of the base."""
    n_dense = sum(pair.n_dense for pair in lora_pairs(layout))
    initial = config.initial_adapter
    return {ADAPTER: initial, _INITIAL: initial, BASE: np.zeros(n_dense, np.float32)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the base with the sum of all updates in it and a fresh LoRA; ``state`` itself if no update came."""
    before = {ADAPTER: state[ADAPTER]}
    averaged = fedavg.fold(before, deltas, context)
    if averaged is before:
        return state
    adapter = state[_INITIAL].copy()
    for slot in other_slots(context.layout):
        adapter[slot.offset : slot.offset + slot.n_values] = averaged[ADAPTER][
            slot.offset : slot.offset + slot.n_values
        ]
    start = state[ADAPTER].astype(np.float64)
    products = mean_products(deltas, lora_pairs(context.layout), lambda _, delta: start + delta)
    change = np.concatenate([pair.scale * mean.reshape(-1) for pair, mean in products])
    return {ADAPTER: adapter, _INITIAL: state[_INITIAL], BASE: (state[BASE] + change).astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA's updates stacked into the base weights: exact at any ranks",
    source="Wang et al. 2024, arXiv:2409.05976",
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
