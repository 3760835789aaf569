"""HetLoRA: devices of different ranks; factors are padded with zeros and weighted by how much they change.

Source:
    Cho et al.: Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models, EMNLP 2024,
    arXiv:2401.06432: distribution by truncation, aggregation after zero padding with weights ``|B_k A_k|_F / sum_j
    |B_j A_j|_F``. Departures: the weight is taken pair by pair; no self-pruning of ranks; the scale is the layout's
    alpha / R for every device, since its graph has it built in; tensors that are not LoRA are weighted by examples.
Not exact: it multiplies means. The device's half is ``edge_agent/trainer/selected.py``.
Memory: three float64 vectors of the adapter's size and one delta at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.ranks import RankOptions, rank_terms, truncated
from aggregator.core.strategies.fedavg import init
from protocol.lora_pairs import lora_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State
    from protocol.lora_pairs import LoraPair

__all__ = ["STRATEGY", "fold", "product_norm"]


def product_norm(pair: LoraPair, adapter: NDArray[np.float64]) -> float:
    """Return |B A|_F without making B A: the root of trace(B^T B A A^T), two matrices [rank, rank]."""
    a, b = pair.a_of(adapter), pair.b_of(adapter)
    gram_b, gram_a = np.einsum("or,os->rs", b, b), np.einsum("ri,si->rs", a, a)  # [rank, rank] each
    return math.sqrt(max(0.0, float((gram_b * gram_a).sum())))


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the weighted mean of the padded local factors; a pair that no device changed keeps its values.

    Raises:
        ValueError: not one member for each delta (the caller's fault).
    """
    options: RankOptions = context.options or RankOptions()
    pairs = lora_pairs(context.layout)
    total, weights = np.zeros(context.layout.n_params, np.float64), np.zeros(len(pairs), np.float64)
    plain, n_total = np.zeros(context.layout.n_params, np.float64), 0
    for (delta, n_examples), member in zip(deltas, context.members, strict=True):
        local = truncated(state[ADAPTER], context.layout, options.rank_of(member.device)) + delta  # padded, [n_params]
        for index, pair in enumerate(pairs):
            weight = product_norm(pair, local)
            weights[index] += weight
            for slot in (pair.slot_a, pair.slot_b):
                here = slice(slot.offset, slot.offset + slot.n_values)
                total[here] += weight * local[here]
        plain += np.multiply(delta, n_examples, dtype=np.float64)
        n_total += n_examples
    if n_total == 0:
        return state
    adapter = state[ADAPTER] + plain / n_total  # the mean by examples, for what is not LoRA
    for pair, weight in zip(pairs, weights, strict=True):
        for slot in (pair.slot_a, pair.slot_b):
            here = slice(slot.offset, slot.offset + slot.n_values)
            adapter[here] = total[here] / weight if weight > 0 else state[ADAPTER][here]
    return {ADAPTER: adapter.astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA of different ranks, padded and weighted by norm",
    source="Cho et al. 2024, arXiv:2401.06432",
    needs=Needs(device="a rank for each device", layout="lora", secure_sum=False, central_dp=False, engine="nothing"),
    options=RankOptions,
    terms=rank_terms,
)
