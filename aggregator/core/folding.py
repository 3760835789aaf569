"""What a strategy is, and the one order in which updates are folded.

A strategy is two pure functions over a *state*: named float32 vectors, ``adapter`` among them. Laws: updates are folded
sorted by device id, so equal sets of updates give equal bytes, whatever the order of arrival and however often the fold
was interrupted; the updates stream, so memory is O(adapter).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from aggregator.core.records import UpdateRecord
    from protocol.layout import Layout

__all__ = ["ADAPTER", "Deltas", "FoldContext", "State", "Strategy", "StrategyConfig", "canonical_order", "fold_checked"]

ADAPTER: Final = "adapter"

State: TypeAlias = Mapping[str, NDArray[np.float32]]
Deltas: TypeAlias = Iterable[tuple[NDArray[np.float32], int]]  # delta float32 [n_params], n_examples > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """What a strategy starts from."""

    initial_adapter: NDArray[np.float32]  # [n_params], the bundle's


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldContext:
    """Which fold this is."""

    layout: Layout
    round: int
    version: int  # that the deltas are based on


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The two functions of a strategy."""

    init: Callable[[Layout, StrategyConfig], State]
    fold: Callable[[State, Deltas, FoldContext], State]
    # Whether the fold looks at single deltas (medians, norms); such a one cannot work on a secure sum's one mean.
    needs_single_deltas: bool = False


def canonical_order(updates: Iterable[UpdateRecord]) -> list[UpdateRecord]:
    """Return the updates of one round in the order of their fold: by device id, of which each has one."""
    return sorted(updates, key=lambda update: update.device)


def fold_checked(strategy: Strategy, state: State, deltas: Deltas, context: FoldContext) -> State:
    """Return the folded state after checking that it is one.

    Raises:
        LocalProtocolError: the strategy returned other vectors than it was given, or none that is finite (a bug of
            ours: every delta was checked when it was accepted).
    """
    folded = strategy.fold(state, deltas, context)
    if folded.keys() != state.keys():
        raise LocalProtocolError("a strategy changed the names of its state's vectors")
    for name, vector in folded.items():
        if vector.dtype != np.float32 or vector.shape != state[name].shape or not np.isfinite(vector).all():
            raise LocalProtocolError(f"a fold made {name} something other than finite float32 {state[name].shape}")
    return folded
