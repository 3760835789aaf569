"""What an update of a device holds under its terms, and where that lies in the adapter.

Must live here: how many values are sealed, and how they become the vector that a strategy folds: zeros where nothing
was sent, and with control variates their changes behind. Does not know about: codecs, devices, rounds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from protocol.layout import Layout  # noqa: TC001 - functools.cache hashes it
from protocol.plan import DeviceTerms  # noqa: TC001
from protocol.selection import n_update_values, sent_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UpdateShape", "shape_of"]

F = TypeVar("F", np.float32, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateShape:
    """The values of one device's update."""

    n_params: int
    n_values: int  # of the update
    has_controls: bool
    positions: NDArray[np.int64] | None  # in the adapter, of what was sent; None for all of it

    @property
    def n_whole(self) -> int:
        """How many values a strategy folds."""
        return (2 if self.has_controls else 1) * self.n_params

    def expand(self, values: NDArray[F]) -> NDArray[F]:
        """Return what a strategy folds, [n_params] or with controls [2 n_params], of the [n_values] sent, or a sum."""
        if self.positions is None:
            return values
        width = 2 if self.has_controls else 1
        full = np.zeros((width, self.n_params), values.dtype)
        full[:, self.positions] = values.reshape(width, -1)
        return full.reshape(-1)


@functools.lru_cache(maxsize=256)
def shape_of(layout: Layout, terms: DeviceTerms | None) -> UpdateShape:
    """Return the shape of an update under ``terms``; cached, since a fold asks for every update."""
    sent = [np.arange(begin, end, dtype=np.int64) for begin, end in sent_ranges(layout, terms)]
    positions = np.concatenate(sent) if sent else np.zeros(0, np.int64)  # [n_sent]
    return UpdateShape(
        n_params=layout.n_params,
        n_values=n_update_values(layout, terms),
        has_controls=terms is not None and bool(terms.has_controls),
        positions=None if positions.size == layout.n_params else positions,
    )
