"""What devices told of how they learn, for ``edgefold task show``: each one's newest figures, and over all of them."""

from __future__ import annotations

import statistics
from contextlib import closing
from typing import TYPE_CHECKING, Any

from aggregator.adapters.sql_metrics import SqlMetrics

if TYPE_CHECKING:
    from aggregator.folders import Folders

__all__ = ["device_metrics"]


def device_metrics(folders: Folders, task: str) -> dict[str, Any]:
    """Return ``devices``, by name, and ``over_devices``: count, mean, lowest and highest of each figure."""
    with closing(SqlMetrics(folders.database)) as store:
        devices = store.newest(task)
    names = sorted({name for told in devices.values() for name in told})
    values = {name: [told[name] for told in devices.values() if name in told] for name in names}
    over = {
        name: {"n": len(all_), "mean": statistics.fmean(all_), "lowest": min(all_), "highest": max(all_)}
        for name, all_ in values.items()
    }
    return {"over_devices": over, "devices": devices}
