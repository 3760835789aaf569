"""The LoRA pairs of a layout: which A belongs to which B, and what shape their product has.

Laws: dW = s B A with the layout's own s, [n_out, n_in]; the pairs are in the layout's order, and a *dense* vector has
their products in that order, each row-major, one after the other. No IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import ConfigError
from protocol.layout import TensorSlot  # noqa: TC001 - a dataclass' field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.layout import Layout

__all__ = ["LoraPair", "lora_pairs", "n_dense_values"]


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


def n_dense_values(layout: Layout) -> int:
    """Return how many values the products of all pairs have together; errors as ``lora_pairs``."""
    return sum(pair.n_dense for pair in lora_pairs(layout))


def _fit(slot_a: TensorSlot, slot_b: TensorSlot) -> bool:
    match (slot_a.shape, slot_b.shape):
        case ((rank, _), (_, columns)):
            return slot_b.role == "lora_B" and rank == columns and slot_a.scale == slot_b.scale
        case _:
            return False


def _view(vector: NDArray[np.floating], slot: TensorSlot) -> NDArray[np.floating]:
    return vector[slot.offset : slot.offset + slot.n_values].reshape(slot.shape)
