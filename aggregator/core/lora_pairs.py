"""The LoRA pairs of a layout, and means of their products: what LoRA-aware folds share.

Laws: dW_i = s B_i A_i with the layout's own s; products are summed in float64, not by BLAS, whose threads would make
the bytes of a fold depend on how many there are. Bound: dense products of at most ``DENSE_BYTES`` at a time (or of one
pair, if that alone is larger), in as many passes over the updates as that takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.core.folding import Deltas
    from protocol.layout import Layout, TensorSlot

__all__ = ["DENSE_BYTES", "LoraPair", "lora_pairs", "mean_products", "other_slots", "product"]

DENSE_BYTES: Final = 256 << 20  # MiniLM's 24 pairs of 384 x 384 take 28 MB

Vector: TypeAlias = NDArray[np.float64]


class Local(Protocol):
    """Gives a device's local adapter from its place in the fold and its delta."""

    def __call__(self, index: int, delta: NDArray[np.float32]) -> Vector:
        """Return the local adapter, float64 [n_params]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """One adapted layer: A is [rank, n_in], B is [n_out, rank]."""

    name: str
    slot_a: TensorSlot
    slot_b: TensorSlot

    @property
    def rank(self) -> int:
        """The layout's rank."""
        return self.slot_a.shape[0]

    @property
    def scale(self) -> float:
        """The factor s of B A."""
        return self.slot_a.scale

    @property
    def dense_shape(self) -> tuple[int, int]:
        """The shape of B A."""
        return self.slot_b.shape[0], self.slot_a.shape[1]

    @property
    def n_dense(self) -> int:
        """How many values B A has."""
        return self.slot_b.shape[0] * self.slot_a.shape[1]

    def a_of(self, vector: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return A in a flat adapter, a view [rank, n_in]."""
        return _view(vector, self.slot_a)

    def b_of(self, vector: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return B in a flat adapter, a view [n_out, rank]."""
        return _view(vector, self.slot_b)


def lora_pairs(layout: Layout) -> tuple[LoraPair, ...]:
    """Return the layout's pairs in its order; none if it has no LoRA.

    Raises:
        ConfigError: a matrix without its partner, or of another rank or scale (whoever made the bundle).
    """
    slots = {slot.name: slot for slot in layout.tensors if slot.role in {"lora_A", "lora_B"}}
    pairs = []
    for name, slot_a in slots.items():
        if slot_a.role != "lora_A":
            continue
        slot_b = slots.get(f"{name.removesuffix('lora_A')}lora_B")
        if slot_b is None or not _fit(slot_a, slot_b):
            raise ConfigError(f"layout: {name} has no lora_B of its rank and scale")
        pairs.append(LoraPair(name=name.removesuffix(".lora_A"), slot_a=slot_a, slot_b=slot_b))
    if 2 * len(pairs) != len(slots):
        raise ConfigError("layout: a lora_B has no lora_A")
    return tuple(pairs)


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


def _fit(slot_a: TensorSlot, slot_b: TensorSlot) -> bool:
    match (slot_a.shape, slot_b.shape):
        case ((rank, _), (_, columns)):
            return slot_b.role == "lora_B" and rank == columns and slot_a.scale == slot_b.scale
        case _:
            return False


def _view(vector: NDArray[np.floating], slot: TensorSlot) -> NDArray[np.floating]:
    return vector[slot.offset : slot.offset + slot.n_values].reshape(slot.shape)
