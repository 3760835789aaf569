"""What strategies share that put a part of what was learnt into the base weights.

Laws: ``base`` is the change of the bundle's own weights so far, one dense float32 vector (``protocol.lora_pairs``), and
a version's weights are the bundle's plus it: no device needs to know an earlier version. What devices are given is this
sum, never a single device's factors. Memory: the dense weights of all adapted layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs
from protocol.lora_pairs import n_dense_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import State
    from protocol.layout import Layout

__all__ = ["BASE", "NEEDS", "adapter_and_base", "no_change"]

BASE: Final = "base"

NEEDS: Final = Needs(
    device="the portable engine, and the base weights' change with each adapter",
    layout="lora",
    secure_sum=False,
    central_dp=False,
    open_base=True,
    memory="dense weights of all adapted layers",
    engine="mean",
)


def no_change(layout: Layout) -> NDArray[np.float32]:
    """Return the change of a bundle's own weights, zeros."""
    return np.zeros(n_dense_values(layout), np.float32)


def adapter_and_base(state: State) -> NDArray[np.float32]:
    """Return the adapter and behind it the change of the base, float32 [n_params + n_dense]."""
    return np.concatenate([state[ADAPTER], state[BASE]])
