"""Which values of the adapter a device starts from, trains and sends, where a strategy says that it is not all of it.

Laws: what is frozen never moves and has no optimiser state, so it cannot tick; what is personal starts from the
device's own last values and is not among those sent; beyond a device's rank A and B are zero and stay zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from protocol.selection import personal_ranges, rank_ranges, sent_ranges, trained_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protocol.layout import Layout
    from protocol.plan import DeviceTerms
    from protocol.selection import Ranges

__all__ = ["Positions", "Selection", "starting_point"]

Positions: TypeAlias = "slice | NDArray[np.int64]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Where the trained and the sent values lie; a slice of everything where that is all."""

    trained: Positions
    sent: Positions
    n_trained: int

    @classmethod
    def of(cls, layout: Layout, terms: DeviceTerms | None) -> Selection:
        """Return the selection under ``terms``."""
        trained = trained_ranges(layout, terms)
        return cls(
            trained=_positions(trained, layout),
            sent=_positions(sent_ranges(layout, terms), layout),
            n_trained=sum(end - begin for begin, end in trained),
        )


def starting_point(
    adapter: NDArray[np.float32],
    layout: Layout,
    terms: DeviceTerms | None,
    *,
    kept: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Return what local training begins with, float32 [n_params], a vector of its own.

    Args:
        adapter: the service's, float32 [n_params].
        layout: where its tensors lie.
        terms: the strategy's.
        kept: the device's own last adapter, for its personal values; None in its first round.
    """
    start = np.zeros_like(adapter)
    for begin, end in rank_ranges(layout, None if terms is None else terms.lora_rank):
        start[begin:end] = adapter[begin:end]
    if kept is not None:
        for begin, end in personal_ranges(layout, terms):
            start[begin:end] = kept[begin:end]
    return start


def _positions(ranges: Ranges, layout: Layout) -> Positions:
    if ranges == ((0, layout.n_params),):
        return slice(None)
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(begin, end) for begin, end in ranges)])
