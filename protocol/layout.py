"""The layout of an adapter: which tensor lies where in the flat float32 vector.

Laws: tensors are contiguous, in order, without gaps; names are unique; sizes are bounded before anything is allocated.
Codecs, clipping, optimisers and folds work on the vector; only LoRA-aware folds read the layout.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from protocol.errors import BundleError
from protocol.fields import FieldError, Length, Range, plain, structure

__all__ = ["MAX_PARAMS", "Layout", "Role", "TensorSlot"]

MAX_PARAMS: Final = 500_000_000  # 2 GB of float32: more than any adapter, less than what would exhaust a server
MAX_DIMS: Final = 8  # bounds the product of the sizes: a convolution's kernel has 5
Role: TypeAlias = Literal["lora_A", "lora_B", "head", "prompt", "prefix", "bias", "scale", "base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlot:
    """One trainable tensor: row-major at ``offset`` (in values, not bytes)."""

    name: Annotated[str, Length(1, 256)]
    shape: Annotated[tuple[Annotated[int, Range(1, MAX_PARAMS)], ...], Length(0, MAX_DIMS)]
    offset: Annotated[int, Range(0, MAX_PARAMS)]
    role: Role
    layer: Annotated[int, Range(0, 10_000)] | None = None
    scale: Annotated[float, Range(1e-9, 1e9)] = 1.0  # LoRA's alpha / rank

    @property
    def n_values(self) -> int:
        """How many values the tensor has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All trainable tensors in the order in which they lie in the vector."""

    format: Annotated[int, Range(1, 1)] = 1
    tensors: Annotated[tuple[TensorSlot, ...], Length(1, 100_000)]

    def __post_init__(self) -> None:
        """Refuse gaps, overlaps, repeated names and absurd sizes."""
        offset = 0
        for slot in self.tensors:
            if slot.offset != offset:
                raise FieldError(f"tensors: {slot.name} begins at {slot.offset}, expected {offset}")
            offset += slot.n_values
            if offset > MAX_PARAMS:
                raise FieldError(f"tensors: more than {MAX_PARAMS} values")
        if len({slot.name for slot in self.tensors}) != len(self.tensors):
            raise FieldError("tensors: a name occurs twice")

    @property
    def n_params(self) -> int:
        """How many float32 values the adapter has."""
        last = self.tensors[-1]
        return last.offset + last.n_values

    def to_bytes(self) -> bytes:
        """Return the bytes of ``layout.json``."""
        return json.dumps(plain(self), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Layout:
        """Read ``layout.json``.

        Raises:
            BundleError: not a layout (whoever made the bundle).
        """
        try:
            return structure(cls, json.loads(data), lenient_floats=True)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"layout.json is not a layout of format 1: {error}") from error
