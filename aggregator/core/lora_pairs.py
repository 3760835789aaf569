"""Means of what LoRA pairs do: what LoRA-aware folds share.

Laws: products are summed in float64, not by BLAS, whose threads would make the bytes of a fold depend on how many there
are. Bound: dense products of at most ``DENSE_BYTES`` at a time (or of one pair, if that alone is larger), in as many
passes over the updates as that takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.core.folding import Deltas
    from protocol.layout import Layout, TensorSlot
    from protocol.lora_pairs import LoraPair

__all__ = ["DENSE_BYTES", "mean_products", "other_slots", "product"]

DENSE_BYTES: Final = 256 << 20  # MiniLM's 12 pairs of 384 x 384 take 14 MB in float64

Vector: TypeAlias = NDArray[np.float64]


class Local(Protocol):
    """Gives a device's local adapter from its place in the fold and its delta."""

    def __call__(self, index: int, delta: NDArray[np.float32]) -> Vector:
        """Return the local adapter, float64 [n_params]."""


def other_slots(layout: Layout) -> Iterator[TensorSlot]:
    """Yield the tensors that are no part of a pair, such as a head."""
    return (slot for slot in layout.tensors if slot.role not in {"lora_A", "lora_B"})


def product(b: NDArray[np.floating], a: NDArray[np.floating]) -> Vector:
    """Return B A in float64, [n_out, n_in]: the same bytes on any number of threads."""
    result: Vector = np.einsum("or,ri->oi", b.astype(np.float64), a.astype(np.float64))
    return result


def mean_products(deltas: Deltas, pairs: Sequence[LoraPair], local: Local) -> Iterator[tuple[LoraPair, Vector]]:
    """Yield sum(n_i B_i A_i) / sum(n_i) of each pair, float64 [n_out, n_in], without the scale.

    Reads ``deltas`` once for each group of pairs that fits the bound.
    """
    for group in _groups(pairs):
        dense = [np.zeros(pair.dense_shape, np.float64) for pair in group]  # each [n_out, n_in]
        n_total = 0
        for index, (delta, n_examples) in enumerate(deltas):
            adapter = local(index, delta)
            for number, pair in enumerate(group):
                dense[number] += n_examples * product(pair.b_of(adapter), pair.a_of(adapter))
            n_total += n_examples
        for pair, total in zip(group, dense, strict=True):
            yield pair, total / max(n_total, 1)


def _groups(pairs: Sequence[LoraPair]) -> Iterator[list[LoraPair]]:
    group: list[LoraPair] = []
    n_bytes = 0
    for pair in pairs:
        if group and n_bytes + 8 * pair.n_dense > DENSE_BYTES:
            yield group
            group, n_bytes = [], 0
        group.append(pair)
        n_bytes += 8 * pair.n_dense
    if group:
        yield group
