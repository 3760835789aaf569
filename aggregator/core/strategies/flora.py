"""FLoRA: stacked factors add up exactly; their sum goes into the base weights, and LoRA begins anew.

Source:
    Wang et al.: FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations, NeurIPS 2024, arXiv:2409.05976: ``[B_1 .. B_K] [p_1 A_1; ..; p_K A_K] = sum p_k B_k A_k``.
    Departures: the scale s of each pair multiplies the sum (the authors' code leaves it out where alpha = 2 r for all),
    and is the layout's alpha / R at every rank, since the graph has it built in; the service adds the stack up and
    hands out the sum, which does not grow with devices and shows no device's factors to another; LoRA begins
    anew at the bundle's adapter, not at another draw, and what that does (nothing, with B zero) is taken off the base;
    tensors that are not LoRA are averaged.
A device of rank r trains the first r rows of A and columns of B. See ``aggregator/core/base_change.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.base_change import BASE, NEEDS, adapter_and_base, no_change
from aggregator.core.folding import ADAPTER, Strategy
from aggregator.core.lora_pairs import mean_products, other_slots, product
from aggregator.core.ranks import RankOptions, truncated
from aggregator.core.strategies import fedavg
from protocol.lora_pairs import lora_pairs
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig, TermsContext
    from protocol.layout import Layout

__all__ = ["STRATEGY", "fold", "init", "terms"]

_INITIAL: Final = "initial"


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter, twice since LoRA returns to it, and no change of the base."""
    initial = config.initial_adapter
    return {ADAPTER: initial, _INITIAL: initial, BASE: no_change(layout)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the base with the sum of all updates in it and a fresh LoRA; ``state`` itself if no update came."""
    options: RankOptions = context.options or RankOptions()
    before = {ADAPTER: state[ADAPTER]}
    averaged = fedavg.fold(before, deltas, context)
    if averaged is before:
        return state
    adapter = state[_INITIAL].copy()
    for slot in other_slots(context.layout):
        here = slice(slot.offset, slot.offset + slot.n_values)
        adapter[here] = averaged[ADAPTER][here]

    def local(index: int, delta: NDArray[np.float32]) -> NDArray[np.float64]:
        rank = options.rank_of(context.members[index].device)
        return truncated(state[ADAPTER], context.layout, rank) + delta

    learnt = [
        pair.scale * (mean - product(pair.b_of(adapter), pair.a_of(adapter))).reshape(-1)
        for pair, mean in mean_products(deltas, lora_pairs(context.layout), local)
    ]
    base = (state[BASE] + np.concatenate(learnt)).astype(np.float32)
    return {ADAPTER: adapter, _INITIAL: state[_INITIAL], BASE: base}


def terms(options: RankOptions, context: TermsContext) -> DeviceTerms:
    """Return the device's rank, and that the base's change comes with the adapter."""
    return DeviceTerms(lora_rank=options.rank_of(context.device), base_change=True)


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA's updates stacked into the base weights: exact at any ranks",
    source="Wang et al. 2024, arXiv:2409.05976",
    needs=NEEDS,
    options=RankOptions,
    terms=terms,
    broadcast=adapter_and_base,
)
