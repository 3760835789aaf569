"""Norm bounding: no delta counts for more than a fixed length; the rest is federated averaging.

Source:
    Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019, arXiv:1911.07963, section 4:
    ``w <- w + sum_k p_k delta_k / max(1, |delta_k| / M)``. Departures: weights are n_k / n.
Memory: three float64 vectors of the adapter's size and a few deltas (``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import weighted_sum
from aggregator.core.partial_sums import Weights
from aggregator.core.strategies.fedavg import init
from protocol.fields import Range

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State

__all__ = ["STRATEGY", "Options", "fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of norm-bounding."""

    max_norm: Annotated[float, Range(1e-6, 1e9)]  # M, the L2 norm over the whole adapter


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one round; ``state`` itself if no update came."""
    options: Options = context.options
    summed = weighted_sum(deltas, context.layout.n_params, Weights(max_norm=options.max_norm))
    if summed.count == 0:
        return state
    return {ADAPTER: (state[ADAPTER] + summed.total / summed.count).astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="averaging of deltas cut to a length",
    source="Sun et al. 2019, arXiv:1911.07963",
    needs=Needs(secure_sum=False, central_dp=False),
    options=Options,
)
