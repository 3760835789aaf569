"""Puts the service together from its configuration: the one place that knows all adapters.

Laws: everything that a user can have got wrong is looked at before the first message, and is one line; only one service
runs on a folder at a time.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aggregator.adapters.accountant import ProcessAccountant
from aggregator.adapters.clock import SystemClock
from aggregator.adapters.engines import PostgresDatabase, open_engine
from aggregator.adapters.evaluator import ProcessEvaluator
from aggregator.adapters.ingest_processes import IngestProcesses
from aggregator.adapters.introductions import DeviceDirectory, chain_source
from aggregator.adapters.registry import DeviceRegistry, EnrolledDevices
from aggregator.adapters.spent_file import SpentFile
from aggregator.adapters.sql_database import translated
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.adapters.sql_facts import SqlFacts
from aggregator.adapters.sql_lifecycle import SqlLifecycle
from aggregator.adapters.sql_pruning import SqlPruning
from aggregator.adapters.sql_retention import SqlRetention
from aggregator.adapters.sql_staging import SqlStaging
from aggregator.adapters.sql_store import SqlStore
from aggregator.adapters.sql_sums import SqlSums
from aggregator.adapters.sql_uploads import SqlUploads
from aggregator.adapters.tag_file import TagFile
from aggregator.adapters.task_keys import FolderTaskKeys
from aggregator.blob_place import open_blobs
from aggregator.brokers import Brokers, make_brokers
from aggregator.bundle_shelf import BundleShelf
from aggregator.conversation import Conversation
from aggregator.core.strategies import STRATEGIES
from aggregator.core.strategy_choice import options_of, refuse_unfit
from aggregator.created_tasks import to_settings, with_created
from aggregator.evaluations import Evaluations
from aggregator.fold_settings import make_engine
from aggregator.folders import Folders, upgrade
from aggregator.noisy_terms import sum_terms_of
from aggregator.outage import Outage
from aggregator.retention import Retention
from aggregator.runner import make_runner
from aggregator.service_key import service_key
from aggregator.sole_service import hold_folder
from aggregator.staged_desk import StagedDesk
from aggregator.steering import Steering
from aggregator.sum_round import SumParts, check_terms
from aggregator.task_setup import TaskSetup, World
from aggregator.uploads import UploadDesk
from host.base_change import open_base
from host.bundle_folder import open_bundle
from host.durable import make_folder
from protocol.bundle import CONTRASTIVE
from protocol.errors import ConfigError
from protocol.open_base import OPEN_BASE

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Engine

    from aggregator.adapters.engines import Database
    from aggregator.config import Config, TaskSettings
    from aggregator.fold_engine import FoldEngine
    from aggregator.ports import Supervisor
    from aggregator.runner import Runner
    from host.bundle_folder import Bundle

__all__ = ["Workshop", "check_files", "open_task"]


class Workshop:
    """All that ``edgefold serve`` holds open; a context manager that closes it in reverse order."""

    def __init__(self, config: Config) -> None:
        """Open everything but the broker and the link.

        Raises:
            ConfigError, TrustError, StorageError: see the parts.
        """
        self.config = config
        self.folders = Folders.of(config)
        make_folder(self.folders.root)
        self.shelf = BundleShelf()
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Close everything."""
        self._stack.close()

    def _open(self) -> None:
        service = self.config.service
        hold_folder(self.folders.root, self._stack)
        registry = self.config.devices.registry
        file = None if registry is None else DeviceRegistry(Path(registry))
        self.key = service_key(Path(service.key), with_second=service.post_quantum_signatures)
        database = self.folders.database
        blobs = self._stack.enter_context(closing(open_blobs(self.folders.blobs)))
        self.outage = Outage(database, blobs)
        upgrade(database)
        engine = self._writer(database)
        self._lifecycle = self._stack.enter_context(closing(SqlLifecycle(database, engine=engine)))
        tasks = with_created(self.config.task, self._lifecycle.created())
        setups = [open_task(task, self.folders, make_key=True) for task in tasks]
        self.max_packet_bytes = max(
            [self.config.broker.max_packet_bytes, *(2 * _largest_message(setup) for setup in setups)]
        )
        store = self._stack.enter_context(closing(SqlStore(database, engine=engine)))
        self.enrolled = self._stack.enter_context(closing(SqlDevices(database, engine=engine)))
        self.devices = EnrolledDevices(self.enrolled, file)
        self.pruning = self._stack.enter_context(closing(SqlPruning(database, engine=engine)))
        sums = self._stack.enter_context(closing(SqlSums(database, engine=engine)))
        with closing(SqlFacts(database, engine=engine)) as facts:
            facts.own(blobs)
        with closing(SqlStaging(database)) as staging, staging.sweeping():  # not while a worker puts one
            blobs.keep_only(store.blobs_in_use(keep_folded=service.keep_folded_updates))
        self.world = World(
            store=store,
            lifecycle=self._lifecycle,
            blobs=blobs,
            clock=SystemClock(),
            conversation=Conversation(fleet=service.fleet, key=self.key),
            accountant=ProcessAccountant(),
            keep_folded_updates=service.keep_folded_updates,
            fold_workers=service.fold_workers,
            fold_engine=self._engine(),
            sums=SumParts(
                store=sums,
                directory=DeviceDirectory(self.devices),
                chain_of=chain_source(self.config, self.enrolled, SystemClock()),
            ),
        )
        self._open_desks(database, engine)
        self.runners: list[Runner] = [self._runner(setup) for setup in setups]
        evaluator = ProcessEvaluator(
            self.folders.evaluation,
            threads=self.config.evaluation.threads,
            deadline_s=self.config.evaluation.deadline_s,
        )
        self.evaluations = Evaluations(evaluator, store)
        self.steering = Steering(self._lifecycle, self._open_created)

    def _open_desks(self, database: Database, engine: Engine | None) -> None:
        """Open what takes large messages and what takes out the past."""
        service, world = self.config.service, self.world
        uploads = self._stack.enter_context(closing(SqlUploads(database, engine=engine)))
        self.uploads = UploadDesk(
            self.config.uploads, store=uploads, conversation=world.conversation, clock=world.clock
        )
        self.staged: StagedDesk | None = None
        self.staging: SqlStaging | None = None
        if self.config.ingest.names:
            self.staging = staging = self._stack.enter_context(closing(SqlStaging(database, engine=engine)))
            staging.forget_workers(but=self.config.ingest.names)
            self.staged = StagedDesk(staging, world.blobs, keep_folded_updates=service.keep_folded_updates)
        retention = self._stack.enter_context(closing(SqlRetention(database, engine=engine)))
        self.retention = Retention(
            retention,
            store=world.store,
            lifecycle=self._lifecycle,
            blobs=world.blobs,
            default=service.retention,
            keep_folded_updates=service.keep_folded_updates,
        )

    def _writer(self, database: Database) -> Engine | None:
        """Return the one connection of the one service on a server; SQLite's stores have their own, under the lock."""
        if not isinstance(database, PostgresDatabase):
            return None
        engine = open_engine(database, is_service=True)
        self._stack.callback(engine.dispose)
        with translated(database), engine.connect():
            return engine

    def _engine(self) -> FoldEngine | None:
        engine = make_engine(self.config.fold, self.folders.blobs)
        if engine is not None:
            self._stack.callback(engine.close)
        return engine

    def _open_created(self, task: str) -> Runner:
        record = next(one for one in self._lifecycle.created() if one.task == task)
        setup = open_task(to_settings(record), self.folders, make_key=True)
        needed = 2 * _largest_message(setup)
        if self.config.broker.url is None and needed > self.max_packet_bytes:
            raise ConfigError(
                f"the broker that runs takes messages of {self.max_packet_bytes} bytes, this task needs {needed}: set "
                "broker.max_packet_bytes, start the service again, and create the task then"
            )
        return self._runner(setup)

    def _runner(self, setup: TaskSetup) -> Runner:
        self.shelf.put(setup.bundle)
        return make_runner(setup, self.world)

    def start_brokers(self) -> Brokers:
        """Return where the brokers are, after starting them if they are ours.

        Raises:
            ConfigError, TransportError: see ``BrokerSupervisor``.
        """
        made = make_brokers(self.config, self.folders.root, max_packet_bytes=self.max_packet_bytes)
        for supervisor in made.supervisors:
            self._stack.callback(supervisor.close)
        return made

    def start_workers(self, brokers: Brokers, config_path: Path) -> tuple[Supervisor, ...]:
        """Return what keeps the ingest workers of this machine alive, if there are to be any; ``tick`` starts them."""
        names = self.config.ingest.local
        if not names:
            return ()
        workers = IngestProcesses(config_path, names, broker=brokers.fleet)
        self._stack.callback(workers.close)
        return (workers,)


def open_task(settings: TaskSettings, folders: Folders, *, make_key: bool) -> TaskSetup:
    """Return the task with its bundle checked, its sets found and its key loaded, or made if there is none.

    Raises:
        ConfigError: a file of the task is missing or no key (the user's fault).
        BundleError: the bundle is not what its manifest says.
    """
    bundle = check_files(settings)
    strategy = STRATEGIES[settings.strategy]
    options = options_of(settings.strategy, settings.strategy_options)
    has_open_base = OPEN_BASE in bundle.manifest.files
    refuse_unfit(settings.strategy, options, layout=bundle.layout, plan=settings.plan, has_open_base=has_open_base)
    if strategy.needs.open_base:
        open_base(bundle)  # it fits the bundle, or no device could use it
    terms = sum_terms_of(settings, n_params=bundle.layout.n_params)
    if terms is not None:
        check_terms(settings.id, terms)
    _refuse_hidden_deltas(settings)
    _refuse_unmet(settings, bundle)
    return TaskSetup(
        settings=settings,
        bundle=bundle,
        keys=FolderTaskKeys(folders.task_key(settings.id), make=make_key),
        strategy=strategy,
        spent=_spent_file(settings, folders),
        tags=None if settings.selection.tags is None else TagFile(Path(settings.selection.tags)),
    )


def _refuse_hidden_deltas(settings: TaskSettings) -> None:
    needs, privacy = STRATEGIES[settings.strategy].needs, settings.privacy
    if privacy.is_secure_sum and not needs.secure_sum:
        hidden = "privacy.level = 'secure-sum' there are none; take fedavg, or level 'sealed'"
    elif privacy.dp is not None and not needs.central_dp:
        hidden = "privacy.dp it is given their noisy mean; take fedavg, or no dp"
    else:
        return
    raise ConfigError(f"task {settings.id}: strategy {settings.strategy} looks at single deltas, and with {hidden}")


def _refuse_unmet(settings: TaskSettings, bundle: Bundle) -> None:
    """Refuse pairs of features that do not work together."""
    kind = bundle.manifest.task.kind
    if settings.plan.dp is not None and kind in CONTRASTIVE:
        raise ConfigError(
            f"task {settings.id}: plan.dp: the loss of {kind} compares examples, one alone has no gradient"
        )
    if settings.gate is not None and STRATEGIES[settings.strategy].needs.plain_sgd:
        raise ConfigError(
            f"task {settings.id}: gate: strategy {settings.strategy} does not go with it, since devices keep "
            "the control variates of a version that it rejects"
        )


def _spent_file(settings: TaskSettings, folders: Folders) -> SpentFile | None:
    dp = settings.privacy.dp
    return None if dp is None else SpentFile(Path(dp.spent_file or folders.spent(settings.id)))


def check_files(settings: TaskSettings) -> Bundle:
    """Return the task's bundle after looking that its files are there and what they claim to be.

    Raises:
        ConfigError: an evaluation set is missing (the user's fault).
        BundleError: the bundle is not what its manifest says.
    """
    bundle = open_bundle(Path(settings.bundle))
    if settings.evaluation is not None:
        for name, path in settings.evaluation.sets.items():
            if not Path(path).is_file():
                raise ConfigError(f"{path}: no such file; it is the evaluation set {name} of task {settings.id}")
    return bundle


def _largest_message(setup: TaskSetup) -> int:
    # An update, the adapter as float32 in a work message, or what a secure sum needs.
    return setup.max_message_bytes + setup.max_answer_bytes
