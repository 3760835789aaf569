"""Reads time series and cuts them into windows: what the model sees, and what comes after.

A CSV has a column a channel and a row a time step, oldest first; a JSONL has one series a line, ``{"series": [...]}``
of numbers, or of rows of numbers where a step has several channels.

Laws: the file is the device owner's, but still checked: lengths and counts are bounded, every value is a finite number,
and an error names the line. Windows follow each other by one horizon, so that every value is forecast at most once.
Memory: all values as float32, and one batch of windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.trainer.examples import read_rows
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from protocol.bundle import SeriesFacts

__all__ = ["SeriesSet", "read_series"]

_MAX_STEPS: Final = 10_000_000  # 40 MB a channel: a year of one value each three seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSet:
    """Series float32 [time, channel], and each window's series and first step, int64 [n, 2]."""

    series: list[NDArray[np.float32]]
    windows: NDArray[np.int64]
    facts: SeriesFacts

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return ones, int64 [n]: all windows are of one size."""
        return np.ones(len(self), np.int64)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> Batch:
        """Return ``rows`` as series float32 [batch, context, channel] and future [batch, horizon, channel]."""
        context, horizon = self.facts.context, self.facts.horizon
        cuts = [
            self.series[which][start : start + context + horizon] for which, start in self.windows[np.asarray(rows)]
        ]
        whole = np.stack(cuts)  # [batch, context + horizon, channel]
        return {"series": whole[:, :context].copy(), "future": whole[:, context:].copy()}


def read_series(path: Path, facts: SeriesFacts, *, max_examples: int) -> SeriesSet:
    """Return at most ``max_examples`` windows of the series in ``path``, the latest of each series kept first.

    Raises:
        ConfigError: no such file, another format, a value that is no finite number, or no series long enough.
    """
    if path.suffix.lower() == ".csv":
        steps = [_step(row, where, facts) for where, row in read_rows(path, max_rows=_MAX_STEPS)]
        series = [np.array(steps, np.float32)]
    else:
        series = [_series(row, where, facts) for where, row in read_rows(path, max_rows=max_examples)]
    length = facts.context + facts.horizon
    windows = [
        (which, start) for which, one in enumerate(series) for start in range(len(one) - length, -1, -facts.horizon)
    ]
    if not windows:
        longest = max(map(len, series), default=0)
        raise ConfigError(f"{path}: the longest series has {longest} values; the model needs {length}")
    return SeriesSet(series=series, windows=np.array(windows[:max_examples], np.int64), facts=facts)


def _step(row: Any, where: str, facts: SeriesFacts) -> list[float]:  # noqa: ANN401 - whatever the file holds
    values = list(row.values())
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a value is no number") from error
    if len(numbers) != facts.channels:
        raise ConfigError(f"{where}: {len(numbers)} columns, the model takes {facts.channels}")
    if not np.isfinite(np.array(numbers, np.float32)).all():
        raise ConfigError(f"{where}: a value is missing, infinite or too large")
    return numbers


def _series(row: Any, where: str, facts: SeriesFacts) -> NDArray[np.float32]:  # noqa: ANN401 - likewise
    values = row.get("series") if isinstance(row, dict) else None
    expected = f"expected numbers under 'series', {facts.channels} a step"
    if not isinstance(values, list):
        raise ConfigError(f"{where}: {expected}")
    try:
        steps = np.array(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {expected}") from error
    if steps.ndim == 1:
        steps = steps[:, None]  # [time, 1]
    if steps.ndim != 2 or steps.shape[1] != facts.channels:
        raise ConfigError(f"{where}: {expected}")
    if not np.isfinite(steps).all():
        raise ConfigError(f"{where}: a value is missing, infinite or too large")
    return steps
