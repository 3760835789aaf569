"""FlexLoRA: devices of different ranks; what they do is averaged exactly and factored again by SVD.

Source:
    Bai et al.: Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
    Resources, NeurIPS 2024, arXiv:2402.11505: ``W = sum p_k s B_k A_k = U S V^T``; rank r gets ``B = U_r S_r / s``,
    ``A = V_r^T``. Departures: the scale is the layout's alpha / R for every device, since its graph has it built in;
    the
    service's own factors have the layout's rank R, so a device's are simply their first r; the sign of each singular
    vector is fixed (its largest component in U is positive); tensors that are not LoRA are averaged.
Exact up to the truncation to R. Singular values come from LAPACK, so the same bytes are promised on the same machine
and libraries only. The device's half is ``edge_agent/trainer/selected.py``.
Memory: dense products within ``lora_pairs.DENSE_BYTES``, else more passes over the stored updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.lora_pairs import mean_products
from aggregator.core.ranks import RankOptions, rank_terms, truncated
from aggregator.core.strategies import fedavg
from aggregator.core.strategies.fedavg import init
from protocol.lora_pairs import lora_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State

__all__ = ["STRATEGY", "factored", "fold"]


def factored(product: NDArray[np.float64], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return B [n_out, rank] and A [rank, n_in], the best of that rank: B A is ``product`` truncated (Eckart-Young)."""
    u, values, vt = np.linalg.svd(product, full_matrices=False)
    n_kept = min(rank, values.size)
    largest = np.take_along_axis(u, np.abs(u).argmax(axis=0)[None, :], axis=0)[0]  # [min(n_out, n_in)]
    signs = np.where(largest < 0, -1.0, 1.0)
    b, a = np.zeros((product.shape[0], rank)), np.zeros((rank, product.shape[1]))
    b[:, :n_kept] = (u * signs * values)[:, :n_kept]
    a[:n_kept] = (vt * signs[:, None])[:n_kept]
    return b, a


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return new factors of the mean product; ``state`` itself if no update came."""
    options: RankOptions = context.options or RankOptions()
    averaged = fedavg.fold(state, deltas, context)
    if averaged is state:
        return state
    adapter = averaged[ADAPTER].copy()

    def local(index: int, delta: NDArray[np.float32]) -> NDArray[np.float64]:
        rank = options.rank_of(context.members[index].device)
        return truncated(state[ADAPTER], context.layout, rank) + delta

    for pair, mean in mean_products(deltas, lora_pairs(context.layout), local):
        b, a = factored(mean, pair.rank)  # the mean is without the scale, and so are the factors
        pair.a_of(adapter)[:], pair.b_of(adapter)[:] = a, b
    return {ADAPTER: adapter}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="LoRA of different ranks, averaged as products and factored again",
    source="Bai et al. 2024, arXiv:2402.11505",
    needs=Needs(
        device="a rank for each device",
        layout="lora",
        secure_sum=False,
        central_dp=False,
        memory="dense products, at most 256 MiB at a time; two passes",
        engine="mean",
    ),
    options=RankOptions,
    terms=rank_terms,
)
