"""Ingest workers in memory, beside the workbench's service: the real loop, ledger and rows on ``host.memory_link``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.adapters.sql_staging import SqlStaging
from aggregator.adapters.sql_store import SqlStore
from aggregator.core.intake import IntakeContext
from aggregator.ingest_ledger import IngestLedger
from aggregator.ingest_worker import IngestParts, IngestWorker
from aggregator.setup import open_task
from protocol import topics
from tests.aggregator.workbench import BLOB_EFFECTS, FLEET, LINK_EFFECTS, STAGING_EFFECTS, TASK, Hooked

if TYPE_CHECKING:
    from aggregator.adapters.engines import Database
    from aggregator.config import TaskSettings
    from aggregator.task_setup import TaskSetup
    from tests.aggregator.workbench import Bench


class Ingest:
    """One worker of a bench; ``restart`` drops every object, as a kill does."""

    def __init__(
        self, bench: Bench, *, name: str = "local-1", max_staged: int = 1000, database: Database | None = None
    ) -> None:
        self.database = database or bench.folders.database
        self.bench, self.name, self.max_staged = bench, name, max_staged
        self.link = bench.broker.link([topics.up(FLEET, "+", "update")])
        self.settings: TaskSettings | None = bench.settings  # None: it knows no task
        self.has_keys = True
        self.start()

    def start(self) -> None:
        bench = self.bench
        self.store = SqlStore(self.database)
        self.staging = SqlStaging(self.database)
        staging: Any = Hooked(self.staging, STAGING_EFFECTS, bench.hooks)
        blobs: Any = Hooked(bench.blobs, BLOB_EFFECTS, bench.hooks)
        link: Any = Hooked(self.link, LINK_EFFECTS, bench.hooks)
        ledger = IngestLedger(self.store, self.staging, self._open)
        parts = IngestParts(
            name=self.name,
            link=link,
            store=staging,
            refuse=self.store.refuse,
            ledger=ledger,
            context=IntakeContext(fleet=FLEET, devices=bench.devices, ledger=ledger, max_bytes=100_000),
            blobs=blobs,
            clock=bench.clock,
            max_staged=self.max_staged,
            pause=lambda _seconds: None,
        )
        self.worker = IngestWorker(parts)

    def _open(self, task: str) -> TaskSetup | None:
        if task != TASK or self.settings is None:
            return None
        return open_task(self.settings, self.bench.folders, make_key=False)

    def settle(self) -> None:
        """Let the worker take all that came, then the service; the worker again, which may have been held back."""
        n_idle = 0
        while n_idle < 2:  # the first may have been one of a worker that was held back
            n_done = self.worker.step(0)
            self.bench.clock.now += 0.05  # the service's next look
            self.bench.settle()
            n_idle = 0 if n_done or self.staging.n_waiting() else n_idle + 1

    def restart(self) -> None:
        """Kill the worker and start it again; unacknowledged messages come again."""
        self.stop()
        while self.link.receive(0) is not None:
            pass
        self.link.connected()
        self.start()

    def stop(self) -> None:
        self.worker._putters.shutdown()
        self.store.close()
        self.staging.close()
