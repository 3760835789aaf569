"""What a strategy is, what it needs, and the one order in which updates are folded.

A strategy is two pure functions over a *state*: named float32 vectors, ``adapter`` among them. Laws: updates are folded
sorted by device id, so equal sets of updates give equal bytes, whatever the order of arrival and however often the fold
was interrupted; the updates stream, so memory is O(adapter), except where a strategy's needs say otherwise. A fold that
passes over its updates more than once says so by ``secure_sum = False``: only stored updates can be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from aggregator.core.records import UpdateRecord
    from protocol.layout import Layout
    from protocol.plan import DeviceTerms

__all__ = [
    "ADAPTER",
    "Deltas",
    "FoldContext",
    "Member",
    "Needs",
    "NoOptions",
    "Pieces",
    "State",
    "Strategy",
    "StrategyConfig",
    "TermsContext",
    "canonical_order",
    "fold_checked",
]

ADAPTER: Final = "adapter"

State: TypeAlias = Mapping[str, NDArray[np.float32]]
Deltas: TypeAlias = Iterable[tuple[NDArray[np.float32], int]]  # delta float32 [n_params], n_examples > 0


class Pieces(Protocol):
    """A vector, float32 [n], that is looked at in pieces: an array, or one that decodes what is looked at."""

    @property
    def size(self) -> int:
        """Return n."""

    def __getitem__(self, cut: slice, /) -> NDArray[np.float32]:
        """Return the values of ``cut``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """The options of a strategy without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """What a strategy starts from."""

    initial_adapter: NDArray[np.float32]  # [n_params], the bundle's
    options: Any = None  # of the strategy's own class; None for its defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One update's facts beside its delta."""

    device: str
    staleness: int = 0  # versions between the one that it is based on and the one that it is folded into


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldContext:
    """Which fold this is."""

    layout: Layout
    round: int
    version: int  # that the deltas are based on
    options: Any = None  # of the strategy's own class; None for its defaults
    members: tuple[Member, ...] = ()  # in the order of the deltas; empty where only their sum is known


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsContext:
    """Whose terms are asked for."""

    version: int  # that the round is based on
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a strategy needs, and what it goes together with."""

    device: str = "nothing"  # beyond plain local training, in words
    layout: Literal["any", "lora"] = "any"
    secure_sum: bool  # the fold works from the one mean of all whole deltas, which is all that a secure sum shows
    central_dp: bool  # the same for one noisy mean: noise on values that nobody sends would move what is frozen
    plain_sgd: bool = False  # the device's steps must be SGD without momentum, and its update unclipped
    memory: str = "O(adapter)"
    engine: Literal["all", "mean", "nothing"] = "all"  # what a fold engine adds; the service does the rest
    open_base: bool = False  # the bundle's base weights must be open to change: it comes behind the adapter


def _no_terms(_options: Any, _context: TermsContext) -> DeviceTerms | None:  # noqa: ANN401 - a strategy's own class
    return None


def _adapter_of(state: State) -> NDArray[np.float32]:
    return state[ADAPTER]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The two functions of a strategy, and what it says of itself."""

    init: Callable[[Layout, StrategyConfig], State]
    fold: Callable[[State, Deltas, FoldContext], State]
    title: str = ""
    source: str = ""
    needs: Needs = field(default_factory=lambda: Needs(secure_sum=False, central_dp=False))
    options: type[Any] = NoOptions
    terms: Callable[[Any, TermsContext], DeviceTerms | None] = _no_terms
    broadcast: Callable[[State], NDArray[np.float32]] = _adapter_of  # what a device is sent


def canonical_order(updates: Iterable[UpdateRecord]) -> list[UpdateRecord]:
    """Return the updates of one round or buffer in the order of their fold: by device id, and by its work in a buffer.

    In a round each device has one; in a buffer a device may have several, each for other work.
    """
    return sorted(updates, key=lambda update: (update.device, update.round))


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
