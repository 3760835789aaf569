"""FedAdagrad, FedAdam and FedYogi: the mean delta is a gradient for an adaptive optimiser on the server.

Source:
    Reddi et al.: Adaptive Federated Optimization, ICLR 2021,
    arXiv:2003.00295, Algorithm 2: ``m <- b1 m + (1 - b1) d``; v by the variant; ``x <- x + eta m / (sqrt(v) + tau)``.
    As there, nothing is corrected for bias and v begins at tau^2.
    Departures: d is weighted by examples; the default eta is 0.01, since an adapter's values are about 0.01 to 0.1 and
    an
    adaptive step moves each by about eta.
Memory: five float64 vectors of the adapter's size and a few deltas (``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import mean_delta
from protocol.fields import Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig
    from protocol.layout import Layout

    Vector = NDArray[np.float64]

__all__ = ["FEDADAGRAD", "FEDADAM", "FEDYOGI", "Options", "init"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of fedadagrad, fedadam and fedyogi."""

    server_learning_rate: Annotated[float, Range(1e-6, 100.0)] = 0.01
    beta1: Annotated[float, Range(0.0, 0.9999)] = 0.9
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.99  # not used by fedadagrad
    tau: Annotated[float, Range(1e-9, 1.0)] = 1e-3  # adaptivity: the smaller, the more


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter, no momentum and a second moment of tau^2."""
    options: Options = config.options or Options()
    return {
        ADAPTER: config.initial_adapter,
        "momentum": np.zeros(layout.n_params, np.float32),
        "second_moment": np.full(layout.n_params, options.tau**2, np.float32),
    }


def _adagrad(v: Vector, square: Vector, options: Options) -> Vector:  # noqa: ARG001 - a variant's signature
    return v + square


def _adam(v: Vector, square: Vector, options: Options) -> Vector:
    return options.beta2 * v + (1 - options.beta2) * square


def _yogi(v: Vector, square: Vector, options: Options) -> Vector:
    return v - (1 - options.beta2) * square * np.sign(v - square)


def _fold(
    state: State, deltas: Deltas, context: FoldContext, *, variant: Callable[[Vector, Vector, Options], Vector]
) -> State:
    options: Options = context.options or Options()
    d = mean_delta(deltas, context.layout.n_params)  # [n_params]
    if d is None:
        return state
    m = options.beta1 * state["momentum"].astype(np.float64) + (1 - options.beta1) * d  # [n_params]
    v = variant(state["second_moment"].astype(np.float64), np.square(d), options)  # [n_params]
    adapter = state[ADAPTER] + options.server_learning_rate * m / (np.sqrt(v) + options.tau)  # [n_params]
    return {
        ADAPTER: adapter.astype(np.float32),
        "momentum": m.astype(np.float32),
        "second_moment": v.astype(np.float32),
    }


def _strategy(title: str, variant: Callable[[Vector, Vector, Options], Vector]) -> Strategy:
    return Strategy(
        init=init,
        fold=partial(_fold, variant=variant),
        title=title,
        source="Reddi et al. 2021, arXiv:2003.00295",
        needs=Needs(secure_sum=True, central_dp=True),
        options=Options,
    )


FEDADAGRAD: Final = _strategy("Adagrad on the server", _adagrad)
FEDADAM: Final = _strategy("Adam on the server", _adam)
FEDYOGI: Final = _strategy("Yogi on the server", _yogi)
