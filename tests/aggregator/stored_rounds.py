"""Sealed updates of one round in a blob folder, and their fold: once by the service's code, once by the formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aggregator.adapters.blob_store import FolderBlobStore
from aggregator.adapters.task_keys import FolderTaskKeys
from aggregator.core.folding import ADAPTER
from aggregator.core.partial_sums import CHUNK
from aggregator.core.records import RoundRecord, UpdateRecord
from aggregator.core.strategies import STRATEGIES
from aggregator.stored_fold import StoredRound
from aggregator.task_setup import TaskSetup
from host.bundle_folder import open_bundle
from protocol import codec
from protocol.messages import UpdateContent, pack_content
from protocol.plan import Codec
from protocol.sealing import binding, seal
from tests.aggregator.workbench import make_bundle, task_settings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from aggregator.fold_engine import FoldEngine
    from protocol.layout import Layout

FLEET = "fleet"


class StoredUpdates:
    """A round of ``n_updates`` int8 updates, by default of federated averaging."""

    def __init__(
        self,
        folder: Path,
        *,
        n_params: int = 0,
        n_updates: int,
        layout: Layout | None = None,
        strategy: str = "fedavg",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.bundle = open_bundle(make_bundle(folder / "bundle", n_params=n_params, layout=layout))
        n_params = self.bundle.layout.n_params
        self.blobs = FolderBlobStore(folder / "blobs")
        self.keys = FolderTaskKeys(folder / "keys" / "task.taskkey", make=True)
        settings = task_settings(folder / "bundle", strategy=strategy, strategy_options=options or {})
        self.setup = TaskSetup(
            settings=settings, bundle=self.bundle, keys=self.keys, strategy=STRATEGIES[settings.strategy]
        )
        self.round = RoundRecord(
            task=settings.id, round=1, version=0, state="closing", opened_unix_s=0.0, deadline_unix_s=1.0
        )
        rng = np.random.default_rng(0)
        self.payloads = [
            codec.encode(rng.normal(0, 1e-3, self.n_sent(i)).astype(np.float32), Codec()) for i in range(n_updates)
        ]
        self.updates = [self._put(i) for i in range(n_updates)]
        self.adapter = np.zeros(n_params, np.float32)

    def fold(self, *, workers: int, engine: FoldEngine | None = None) -> NDArray[np.float32]:
        stored = StoredRound(
            self.setup, self.round, self.updates, blobs=self.blobs, fleet=FLEET, workers=workers, engine=engine
        )
        return stored.fold_into({ADAPTER: self.adapter})[ADAPTER]

    def n_sent(self, i: int) -> int:
        """Return how many values the update has."""
        return self.setup.shape(f"device-{i:04}", version=0).n_values

    def delta(self, i: int) -> NDArray[np.float32]:
        return codec.decode(self.payloads[i], n_values=self.adapter.size)

    def reference(self) -> NDArray[np.float32]:
        total, n = np.zeros(self.adapter.size, np.float64), 0
        for first in range(0, len(self.payloads), CHUNK):
            part = np.zeros(self.adapter.size, np.float64)
            for i in range(first, min(first + CHUNK, len(self.payloads))):
                part += np.multiply(self.delta(i), i + 1, dtype=np.float64)
                n += i + 1
            total += part
        return (total / n + self.adapter).astype(np.float32)

    def _put(self, i: int) -> UpdateRecord:
        device, update_id = f"device-{i:04}", i.to_bytes(16, "big")
        info = binding(
            fleet=FLEET,
            task=self.round.task,
            bundle_id=self.bundle.id,
            round_=1,
            version=0,
            device=device,
            update_id=update_id,
        )
        content = UpdateContent(n_examples=i + 1, n_steps=1, loss=1.0, train_s=1.0, delta=self.payloads[i])
        blob = self.blobs.put(seal(pack_content(content), public_raw=self.keys.of_round(1).public_raw, info=info))
        return UpdateRecord(
            update_id=update_id,
            task=self.round.task,
            round=1,
            device=device,
            blob=blob,
            n_bytes=1,
            payload_bytes=1,
            n_examples=i + 1,
            loss=1.0,
            train_s=1.0,
        )
