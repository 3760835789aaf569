"""Which frozen weights of a bundle a version may change: ``base.json``, beside the layout (docs/adr/0029).

Some strategies put a part of what was learnt into the weights that LoRA adapts. Such a *base change* is one dense
vector (``protocol.lora_pairs``), and this file says where each pair's weight lies, so that a device can add it.

Laws: there is one entry for each pair of the layout, in its order and of its shape; a weight lies in the weights file
as float32, [n_out, n_in] or transposed, inside the file's length; each initializer of a graph is named once. A bundle
without the file has no weights that may change. No IO.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from protocol.bundle import MAX_FILE_BYTES
from protocol.errors import BundleError
from protocol.fields import FieldError, Length, Range, plain, structure
from protocol.lora_pairs import lora_pairs

if TYPE_CHECKING:
    from protocol.layout import Layout

__all__ = ["MAX_OPEN_BASE_BYTES", "OPEN_BASE", "BaseWeight", "GraphName", "OpenBase", "Stored"]

OPEN_BASE: Final = "base.json"
MAX_OPEN_BASE_BYTES: Final = 32 * 2**20  # as the layout's; MiniLM's has 5 kB
GraphName: TypeAlias = Literal["train", "evaluate"]
_VALUE_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One initializer of one of the portable engine's graphs that is a pair's base weight."""

    graph: GraphName
    name: Annotated[str, Length(1, 256)]
    offset: Annotated[int, Range(0, MAX_FILE_BYTES)]  # in the weights file, in bytes
    is_transposed: bool  # lies there as [n_in, n_out]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWeight:
    """The base weight of one LoRA pair, wherever the graphs read it."""

    pair: Annotated[str, Length(1, 256)]
    n_out: Annotated[int, Range(1, 10**9)]
    n_in: Annotated[int, Range(1, 10**9)]
    stored: Annotated[tuple[Stored, ...], Length(2, 16)]

    def __post_init__(self) -> None:
        """Refuse a weight that one of the graphs does not read."""
        if {one.graph for one in self.stored} != {"train", "evaluate"}:
            raise FieldError(f"stored: {self.pair} must be in both graphs")

    @property
    def n_values(self) -> int:
        """How many values the weight has."""
        return self.n_out * self.n_in


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBase:
    """All weights that a version may change."""

    format: Annotated[int, Range(1, 1)] = 1
    weights: Annotated[tuple[BaseWeight, ...], Length(1, 100_000)]

    def __post_init__(self) -> None:
        """Refuse an initializer that is named twice."""
        named = [(one.graph, one.name) for weight in self.weights for one in weight.stored]
        if len(set(named)) != len(named):
            raise FieldError("weights: an initializer is named twice")

    def to_bytes(self) -> bytes:
        """Return the bytes of ``base.json``."""
        return json.dumps(plain(self), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, layout: Layout, weights_bytes: int) -> OpenBase:
        """Read ``base.json`` of a bundle with this layout and so long a weights file.

        Raises:
            BundleError: it is none, or does not fit them (whoever made the bundle).
        """
        try:
            found = structure(cls, json.loads(data))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{OPEN_BASE} is not one of format 1: {error}") from error
        expected = [(pair.name, *pair.dense_shape) for pair in lora_pairs(layout)]
        if [(one.pair, one.n_out, one.n_in) for one in found.weights] != expected:
            raise BundleError(f"{OPEN_BASE}: its weights are not those of the layout's LoRA pairs")
        for weight in found.weights:
            end = max(one.offset for one in weight.stored) + _VALUE_BYTES * weight.n_values
            if end > weights_bytes or any(one.offset % _VALUE_BYTES for one in weight.stored):
                raise BundleError(f"{OPEN_BASE}: {weight.pair} does not lie in the weights file")
        return found
