"""``edgefold serve ingest``: one ingest worker, put together from the service's settings; runs until a signal.

Laws: one worker of a name at a time, which the database sees to; it needs neither the service's signing key nor the
authority's keys, and never looks for them; what an operator can have got wrong is one line before the first message.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.adapters.broker import ALL_INTERFACES, LOOPBACK
from aggregator.adapters.clock import SystemClock
from aggregator.adapters.engines import open_engine
from aggregator.adapters.registry import DeviceRegistry, EnrolledDevices
from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.adapters.sql_facts import SqlFacts
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.adapters.sql_store import SqlStore
from aggregator.app import TICK_S
from aggregator.away import AwayError
from aggregator.blob_place import open_blobs
from aggregator.core.intake import IntakeContext
from aggregator.created_tasks import with_created
from aggregator.folders import Folders
from aggregator.ingest_ledger import IngestLedger
from aggregator.ingest_settings import client_name, worker_filter
from aggregator.ingest_worker import BATCH, IngestParts, IngestWorker
from aggregator.outage import Outage
from aggregator.serve import FREED_BYTES, stop_on_signals
from aggregator.setup import open_task
from host import logs
from host.allocator import keep_freed_memory
from host.link import BrokerAddress, parse_broker_url
from host.mqtt_link import MqttLink
from host.tls import TlsFiles, client_context
from protocol.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import ssl
    import threading
    from collections.abc import Callable, Iterator

    from aggregator.config import Config
    from aggregator.task_setup import TaskSetup

__all__ = ["SESSION_EXPIRY_S", "run_ingest"]

# What the broker keeps for a worker that is away. Meanwhile its share of the messages waits for it (Mosquitto hands a
# session its turn whether or not its client is there), so a worker that is gone for good must be forgotten soon.
SESSION_EXPIRY_S: Final = 900


def run_ingest(config: Config, *, name: str, broker_url: str | None = None) -> None:
    """Take updates in until SIGTERM or SIGINT.

    Raises:
        ConfigError, TrustError, StorageError: it cannot begin, or cannot go on.
    """
    logs.configure(level=config.service.log_level)
    keep_freed_memory(FREED_BYTES)
    if name not in config.ingest.names:
        known = ", ".join(config.ingest.names) or "none"
        raise ConfigError(f"ingest: no worker is called {name}; [ingest] has: {known}")
    stop = stop_on_signals()
    with ExitStack() as stack:
        worker, outage, staging = _opened(config, name, broker_url, stop, stack)
        logs.event("ingest-ready", worker=name, fleet=config.service.fleet, pid=os.getpid())

        def resume() -> None:
            staging.n_waiting()

        while not stop.is_set():
            try:
                worker.step(TICK_S)
            except AwayError as error:
                if not outage.wait(error, stop, resume=resume):
                    break
    logs.event("ingest-stopped", worker=name)


def _opened(
    config: Config, name: str, broker_url: str | None, stop: threading.Event, stack: ExitStack
) -> tuple[IngestWorker, Outage, SqlStaging]:
    folders, fleet = Folders.of(config), config.service.fleet
    database = folders.database
    SqlDatabase(database).close()  # it is there, and of the newest revision
    engine = open_engine(database, worker=name)
    stack.callback(engine.dispose)
    store, staging = SqlStore(database, engine=engine), SqlStaging(database, engine=engine)
    staging.n_waiting()  # takes the lock of this name
    blobs = stack.enter_context(closing(open_blobs(folders.blobs)))
    state_id = SqlFacts(database, engine=engine).check_own(blobs)
    file = None if config.devices.registry is None else DeviceRegistry(Path(config.devices.registry))
    lifecycle = SqlLifecycle(database, engine=engine)

    def setup_of(task: str) -> TaskSetup | None:
        tasks = {one.id: one for one in with_created(config.task, lifecycle.created())}
        return open_task(tasks[task], folders, make_key=False) if task in tasks else None

    ledger = IngestLedger(store, staging, setup_of)
    tls = _tls(config, name)
    link = MqttLink(
        _address(config, broker_url),
        client_id=client_name(name),
        filters=[worker_filter(fleet, state_id)],
        mqtt="5",  # 3.1.1 has no shared subscriptions
        tls=tls,
        expiry_s=SESSION_EXPIRY_S,
        max_unacknowledged=BATCH,
    )
    parts = IngestParts(
        name=name,
        link=link,
        store=staging,
        refuse=store.refuse,
        ledger=ledger,
        context=IntakeContext(
            fleet=fleet,
            devices=EnrolledDevices(SqlDevices(database, engine=engine), file),
            ledger=ledger,
            max_bytes=max([config.broker.max_packet_bytes, *_largest(config, setup_of)]),
        ),
        blobs=blobs,
        clock=SystemClock(),
        max_staged=config.ingest.max_staged,
        pause=stop.wait,
    )
    worker = IngestWorker(parts)
    stack.callback(worker.close)
    return worker, Outage(database, blobs), staging


def _largest(config: Config, setup_of: Callable[[str], TaskSetup | None]) -> Iterator[int]:
    """Yield the longest honest message of each task; of one that cannot be opened here the ledger will say why."""
    for one in config.task:
        with suppress(ConfigError, BundleError):
            setup = setup_of(one.id)
            if setup is not None:
                yield setup.max_message_bytes


def _address(config: Config, broker_url: str | None) -> BrokerAddress:
    url = broker_url or config.broker.url
    if url is not None:
        address = parse_broker_url(url)
    else:  # the service's own, on this machine
        host = config.broker.host
        if host in (LOOPBACK, ALL_INTERFACES):
            host = LOOPBACK
        elif config.authority is not None:
            host = config.authority.host
        address = BrokerAddress(host=host, port=config.broker.port, is_tls=config.authority is not None)
    if address.is_tls != (config.authority is not None):
        raise ConfigError(f"broker {url!r}: mqtts:// and [authority] go together")
    return address


def _tls(config: Config, name: str) -> Callable[[], ssl.SSLContext] | None:
    if config.authority is None:
        return None
    folder = Path(config.authority.folder)
    files = TlsFiles(
        root=folder / "root.pem", certificate=folder / f"ingest-{name}.pem", key=folder / f"ingest-{name}.key"
    )
    client_context(files)  # one line now, instead of a link that never comes up
    return lambda: client_context(files)
