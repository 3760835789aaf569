"""SCAFFOLD: control variates take the drift of unlike devices out of their steps.

Source:
    Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD, ICML 2020, arXiv:1910.06378, Algorithm 1 with option II:
    device ``y <- y - eta (g - c_i + c)``, ``c_i+ = c_i - c + (x - y) / (K eta)``; service
    ``x <- x + eta_g mean(y - x)``, ``c <- c + |S| / N mean(c_i+ - c_i)``.
    Departures: a device keeps the c_i whose change the service decoded, not the one that it computed, so that c stays
    the mean of all c_i whatever the codec rounds away.
An update is [n_params] of delta followed by [n_params] of the control's change. The device's half is
``edge_agent/trainer/controls.py``. Memory: six float64 vectors of the adapter's size and a few updates
(``partial_sums.AT_ONCE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from aggregator.core.folding import ADAPTER, Needs, Strategy
from aggregator.core.means import weighted_sum
from aggregator.core.partial_sums import Weights
from protocol.fields import Range
from protocol.plan import DeviceTerms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import Deltas, FoldContext, State, StrategyConfig, TermsContext
    from protocol.layout import Layout

__all__ = ["CONTROL", "STRATEGY", "Options", "broadcast", "fold", "init", "terms"]

CONTROL: Final = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``[task.strategy_options]`` of scaffold."""

    n_devices: Annotated[int, Range(1, 10**9)]  # N: all that ever take part, not those of a round
    server_learning_rate: Annotated[float, Range(1e-6, 100.0)] = 1.0


def init(layout: Layout, config: StrategyConfig) -> State:
    """Return the bundle's adapter and a control of zeros."""
    return {ADAPTER: config.initial_adapter, CONTROL: np.zeros(layout.n_params, np.float32)}


def fold(state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the state after one round; ``deltas`` are float32 [2 n_params]; ``state`` itself if none came."""
    options: Options = context.options
    n_params = context.layout.n_params
    summed = weighted_sum(deltas, 2 * n_params, Weights(by_examples=False))
    n_updates, mean = summed.count, summed.total  # [2 n_params]
    if n_updates == 0:
        return state
    mean /= n_updates
    adapter = state[ADAPTER] + options.server_learning_rate * mean[:n_params]  # [n_params]
    control = state[CONTROL] + n_updates / options.n_devices * mean[n_params:]  # [n_params]
    return {ADAPTER: adapter.astype(np.float32), CONTROL: control.astype(np.float32)}


def terms(options: Options, context: TermsContext) -> DeviceTerms:  # noqa: ARG001 - a strategy's signature
    """Return that every device keeps a control variate."""
    return DeviceTerms(has_controls=True)


def broadcast(state: State) -> NDArray[np.float32]:
    """Return the adapter and behind it the control, float32 [2 n_params]."""
    return np.concatenate([state[ADAPTER], state[CONTROL]])


STRATEGY: Final = Strategy(
    init=init,
    fold=fold,
    title="control variates against the drift of unlike devices",
    source="Karimireddy et al. 2020, arXiv:1910.06378",
    # The control's change is a gradient's size and has no clip, so no bound on what one device can do.
    needs=Needs(
        device="a control variate kept on the device; twice the bytes",
        secure_sum=False,
        central_dp=False,
        plain_sgd=True,
    ),
    options=Options,
    terms=terms,
    broadcast=broadcast,
)
