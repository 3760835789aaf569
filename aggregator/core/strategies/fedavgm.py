"""FedAvgM: federated averaging with momentum on the server.

Source:
    Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, 2019,
    arXiv:1909.06335, section 4.2: ``v <- beta v + dw``, ``w <- w - v`` with dw = sum_k (n_k / n) dw_k.
    Departures: our deltas are local minus global, so the sign is plus; a server learning rate (1 by default) scales v.
Memory: four float64 vectors of the adapter's size and a few deltas (``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import mean_delta
from protocol.fields import Range

if TYPE_CHECKING:
    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

__all__ = ["MOMENTUM", "STRATEGY", "Options", "fold", "init"]

MOMENTUM: Final = "momentum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of fedavgm."""

    momentum: Annotated[float, Range(0.0, 0.9999)] = 0.9  # 0 is federated averaging
    server_learning_rate: Annotated[float, Range(1e-6, 100.0)] = 1.0


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter and no momentum."""
    return {ADAPTER: config.initial_adapter, MOMENTUM: np.zeros(layout.n_params, np.float32)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one round; ``state`` itself if no update came."""
    options: Options = context.options or Options()
    mean = mean_delta(deltas, context.layout.n_params)  # [n_params]
    if mean is None:
        return state
    momentum = options.momentum * state[MOMENTUM].astype(np.float64) + mean  # [n_params]
    adapter = options.server_learning_rate * momentum + state[ADAPTER]  # [n_params]
    return {ADAPTER: adapter.astype(np.float32), MOMENTUM: momentum.astype(np.float32)}


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="averaging with momentum on the server",
    source="Hsu et al. 2019, arXiv:1909.06335",
    needs=Needs(secure_sum=True, central_dp=True),
    options=Options,
)
