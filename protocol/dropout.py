"""Dropout as inputs of a training graph: where values may be dropped, and the masks that say which are.

A graph of standard operators draws no random numbers (``protocol.onnx_operators``), and random operators differ from
engine to engine anyway. So a training graph with dropout takes one mask for each place, and whoever calls it makes the
masks. They are a function of a seed, the adapter and the batch: the same step has the same masks on every machine, also
when it is done again after a power cut, and no counter must be kept.

Laws: no IO; integer arithmetic on a PCG64 stream, so the same masks everywhere; a value is kept with probability
1 - ``rate`` up to 2^-16; an evaluation has no masks and drops nothing.

Source: Srivastava et al. 2014, JMLR 15, 1929-1958; kept values are divided by 1 - rate, as everybody does since.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np

from protocol.fields import Length, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["AxisFacts", "DropoutFacts", "keep_masks", "mask_name", "masks_of_step"]

_LEVELS: Final = 1 << 16  # values of the 16 bits that decide about a value


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


def keep_masks(
    facts: DropoutFacts, *, n_examples: int, n_tokens: int, seed: int | bytes
) -> dict[str, NDArray[np.uint8]]:
    """Return the masks of one step by input name, uint8, one where a value is kept."""
    entropy = int.from_bytes(seed, "little") if isinstance(seed, bytes) else seed
    bits = np.random.PCG64(entropy)
    threshold = round((1 - facts.rate) * _LEVELS)
    masks = {}
    for number, shape in enumerate(facts.shapes):
        lengths = [axis.length(n_examples=n_examples, n_tokens=n_tokens) for axis in shape]
        size = int(np.prod(lengths))
        words = np.asarray(bits.random_raw(-(-size // 4)), "<u8")  # four values a word
        masks[mask_name(number)] = (words.view("<u2")[:size] < threshold).astype(np.uint8).reshape(lengths)
    return masks


def masks_of_step(
    facts: DropoutFacts, theta: NDArray[np.float32], batch: Mapping[str, NDArray[Any]], *, seed: int
) -> dict[str, NDArray[np.uint8]]:
    """Return the masks of the step that takes ``theta`` on ``batch``, a function of these and ``seed`` alone."""
    digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True))
    digest.update(np.ascontiguousarray(theta, "<f4").data)
    for name in sorted(batch):
        digest.update(np.ascontiguousarray(batch[name]).data)
    n_examples = len(next(iter(batch.values())))
    # The tokens of a batch are on the last axis of its mask, texts in pairs among them.
    n_tokens = batch["attention_mask"].shape[-1] if "attention_mask" in batch else 0
    return keep_masks(facts, n_examples=n_examples, n_tokens=n_tokens, seed=digest.digest())
