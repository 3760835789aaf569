"""Devices of different LoRA ranks: who has which, and what of an adapter such a device is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np

from protocol.fields import Length, Name, Range
from protocol.plan import DeviceTerms
from protocol.selection import rank_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aggregator.core.folding import TermsContext
    from protocol.layout import Layout

__all__ = ["RankOptions", "rank_terms", "truncated"]

_Rank = Annotated[int, Range(1, 65536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """``[task.strategy_options]`` of hetlora and flexlora; a rank above the bundle's is the bundle's."""

    default_rank: _Rank | None = None  # of devices that are not named; the bundle's if absent
    ranks: Annotated[dict[Name, _Rank], Length(0, 100_000)] = field(default_factory=dict)  # by device id

    def rank_of(self, device: str) -> int | None:
        """Return the device's rank, None for the bundle's."""
        return self.ranks.get(device, self.default_rank)


def rank_terms(options: RankOptions, context: TermsContext) -> DeviceTerms:
    """Return the device's rank."""
    return DeviceTerms(lora_rank=options.rank_of(context.device))


def truncated(adapter: NDArray[np.float32], layout: Layout, rank: int | None) -> NDArray[np.float64]:
    """Return what a device of ``rank`` is given, padded with zeros, float64 [n_params]."""
    kept = np.zeros(layout.n_params, np.float64)
    for begin, end in rank_ranges(layout, rank):
        kept[begin:end] = adapter[begin:end]
    return kept
