"""The masks of a training graph with dropout: which values a step keeps.

They are a function of a seed, the adapter and the batch: the same step has the same masks on every machine, also when
it is done again after a power cut, and no counter must be kept.

Laws: no IO; integer arithmetic on a PCG64 stream, so the same masks everywhere; a value is kept with probability
1 - ``rate`` up to 2^-16.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from protocol.dropout import mask_name
from protocol.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from protocol.dropout import DropoutFacts

__all__ = ["keep_masks", "masks_of_step"]

_LEVELS: Final = 1 << 16  # values of the 16 bits that decide about a value
_MAX_VALUES: Final = 1 << 30  # a gigabyte; a batch of 64 texts of 1024 tokens with 16 heads has such a mask


def keep_masks(
    facts: DropoutFacts, *, n_examples: int, n_tokens: int, seed: int | bytes
) -> dict[str, NDArray[np.uint8]]:
    """Return the masks of one step by input name, uint8, one where a value is kept.

    Raises:
        BundleError: a mask is empty, or too large for any step (whoever made the bundle).
    """
    entropy = int.from_bytes(seed, "little") if isinstance(seed, bytes) else seed
    bits = np.random.PCG64(entropy)
    threshold = round((1 - facts.rate) * _LEVELS)
    masks = {}
    for number, shape in enumerate(facts.shapes):
        lengths = [axis.length(n_examples=n_examples, n_tokens=n_tokens) for axis in shape]
        size = math.prod(lengths)
        if not 0 < size <= _MAX_VALUES:
            raise BundleError(f"dropout: a mask of {size} values, at most {_MAX_VALUES} are taken")
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
