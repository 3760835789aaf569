"""Dropout as inputs of a training graph: where values may be dropped.

A graph of standard operators draws no random numbers (``protocol.onnx_operators``), and random operators differ from
engine to engine anyway. So a training graph with dropout takes one mask for each place, and whoever calls it makes the
masks (``host.dropout_masks``).

Laws: no IO; an evaluation has no masks and drops nothing; kept values are divided by 1 - rate inside the graph.

Source: Srivastava et al. 2014, JMLR 15, 1929-1958; dividing in training is what everybody does since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import Length, Range

__all__ = ["AxisFacts", "DropoutFacts", "mask_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisFacts:
    """The length of one axis: a constant, and so much for each example and each token of a batch."""

    constant: Annotated[int, Range(-(10**9), 10**9)] = 0
    batch: Annotated[int, Range(0, 10**6)] = 0
    seq: Annotated[int, Range(0, 10**6)] = 0

    def length(self, *, n_examples: int, n_tokens: int) -> int:
        """Return the length for a batch of ``n_examples``, padded to ``n_tokens``."""
        return self.constant + self.batch * n_examples + self.seq * n_tokens


_Shape = Annotated[tuple[AxisFacts, ...], Length(1, 8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutFacts:
    """How often a value is dropped, and the shape of each mask, in the order of the graph's inputs."""

    rate: Annotated[float, Range(0.0001, 0.9)]
    shapes: Annotated[tuple[_Shape, ...], Length(1, 4096)]


def mask_name(number: int) -> str:
    """Return the name of the graph's input for the mask of place ``number``."""
    return f"keep_{number}"
