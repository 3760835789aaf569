"""FedBuff's fold: a buffer of updates of different age, each weighted down by its staleness.

Source:
    Nguyen et al.: Federated Learning with Buffered Asynchronous Aggregation,
    AISTATS 2022, arXiv:2106.06639, Algorithm 1 and its weight ``1 / sqrt(1 + tau)``: ``w <- w + eta_g / K sum_i
    s(tau_i) d_i``.
    Departures: ``weight_by_examples`` (the default) weighs by n_i as well, so that a buffer without staleness is
    federated averaging bit for bit; without it the divisor is K, as there. An update older than ``max_staleness`` is
    left out and not counted. ``staleness`` has two more weights beside the paper's.
The divisor does not hold the staleness weights, so stale buffers take shorter steps. In synchronous rounds every
staleness is 0. Memory: three float64 vectors of the adapter's size and a few deltas (``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import weighted_sum
from aggregator.core.partial_sums import Weights
from aggregator.core.strategies.fedavg import init
from protocol.fields import Range

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State

__all__ = ["STRATEGY", "Options", "StalenessRule", "fold", "staleness_weight"]


StalenessRule: TypeAlias = Literal["sqrt", "linear", "constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of fedbuff."""

    server_learning_rate: Annotated[float, Range(1e-6, 100.0)] = 1.0
    max_staleness: Annotated[int, Range(0, 10**6)] = 20
    staleness: StalenessRule = "sqrt"
    weight_by_examples: bool = True


def staleness_weight(staleness: int, rule: StalenessRule = "sqrt") -> float:
    """Return 1 / sqrt(1 + tau), the paper's; 1 / (1 + tau) for ``linear`` and 1 for ``constant``.

    IEEE 754 rounds each of these correctly, so they are the same bits on every machine.
    """
    match rule:
        case "sqrt":
            return 1.0 / math.sqrt(1.0 + staleness)
        case "linear":
            return 1.0 / (1.0 + staleness)
        case "constant":
            return 1.0


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one buffer; ``state`` itself if nothing in it is young enough.

    Raises:
        ValueError: not one member for each delta (the caller's fault).
    """
    options: Options = context.options or Options()
    factors = tuple(
        staleness_weight(one.staleness, options.staleness) if one.staleness <= options.max_staleness else 0.0
        for one in context.members
    )
    weights = Weights(by_examples=options.weight_by_examples, factors=factors)
    summed = weighted_sum(deltas, context.layout.n_params, weights)
    if summed.count == 0:
        return state
    total = summed.total  # [n_params]
    total /= summed.count
    total *= options.server_learning_rate
    total += state[ADAPTER]
    return {ADAPTER: total.astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="a buffer of updates, each weighted by its age; in synchronous rounds none has any",
    source="Nguyen et al. 2022, arXiv:2106.06639",
    needs=Needs(secure_sum=False, central_dp=False),
    options=Options,
)
