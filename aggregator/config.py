"""The service's settings, read once from ``aggregator.toml``; docs/aggregator.md shows a whole file.

Laws: identity has no default; every bound on input from outside and every wait is here; relative paths are relative to
the configuration file's folder, so a fleet's folder can be moved; a wrong value is one line that names its key.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from aggregator.async_settings import AsyncSettings, check_mode
from aggregator.blob_settings import ObjectStorageSettings, is_url
from aggregator.bundle_settings import BundleSettings  # noqa: TC001 - read from the annotation at run time
from aggregator.core.strategy_choice import options_of
from aggregator.dp_settings import check_dp
from aggregator.fold_pool import MAX_WORKERS
from aggregator.fold_settings import FoldSettings
from aggregator.gate_settings import GateSettings  # noqa: TC001 - read from the annotation at run time
from aggregator.http_settings import HttpSettings  # noqa: TC001 - likewise
from aggregator.ingest_settings import IngestSettings
from aggregator.metric_settings import check_metrics
from aggregator.privacy_settings import PrivacySettings
from aggregator.retention_settings import RetentionSettings
from aggregator.selection_settings import SelectionSettings
from aggregator.upload_settings import UploadSettings
from host.config import load
from protocol.bounds import MAX_EXAMPLES
from protocol.fields import FieldError, Length, Name, Range
from protocol.metrics import MetricNames  # noqa: TC001 - read from the annotation at run time
from protocol.plan import Codec, Optimizer, Plan

__all__ = [
    "AuthoritySettings",
    "BrokerSettings",
    "Config",
    "DevicesSettings",
    "EvaluationSettings",
    "ServiceSettings",
    "TaskEvaluation",
    "TaskSettings",
    "load_config",
    "resolve_task",
]

PathText = Annotated[str, Length(1, 4096)]
_Seconds = Annotated[float, Range(0.01, 1e7)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """``[service]``: who we are and where we keep our state."""

    fleet: Name
    folder: PathText
    database: Annotated[str, Length(1, 1024)] | None = None  # postgresql+psycopg://...; None: SQLite in the folder
    database_password_file: PathText | None = None
    blobs: Annotated[str, Length(1, 4096)] | None = None  # s3://BUCKET/PREFIX or a folder; None: in the folder
    object_storage: ObjectStorageSettings = field(default_factory=ObjectStorageSettings)
    key: PathText  # Ed25519, hex; made with mode 0600 if it is missing
    # Kept, they let `edgefold task verify` fold again; without a bound in [service.retention] they only grow.
    keep_folded_updates: bool = False
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    post_quantum_signatures: bool = False  # sign by ML-DSA-65 too, with a second key beside the first
    fold_workers: Annotated[int, Range(0, MAX_WORKERS)] = 0  # threads for a fold; 0: what pays
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """``[broker]``: with ``url`` the broker is somebody else's affair, without it ``edgefold serve`` runs one."""

    url: Annotated[str, Length(1, 512)] | None = None
    kind: Literal["auto", "mosquitto", "embedded"] = "auto"
    host: Annotated[str, Length(1, 255)] = "127.0.0.1"  # to listen on; without [authority] loopback only
    port: Annotated[int, Range(0, 65535)] = 1883  # registered for MQTT; 0 takes a free one, for tests
    insecure_loopback: bool = False  # run a broker without certificates, for this machine alone
    claim_port: Annotated[int, Range(1, 65535)] = 8884  # where devices enrol
    claim_service_port: Annotated[int, Range(1, 65535)] = 8885  # where the service takes their claims
    claim_url: Annotated[str, Length(1, 512)] | None = None  # of that port, where `edgefold broker` runs elsewhere
    # Of a broker that we run; raised to twice the largest message of the tasks. 8 MiB holds 2 million float32.
    max_packet_bytes: Annotated[int, Range(1024, 268_435_455)] = 8 << 20
    # A broker that comes up beside us (same boot, same script) takes a second or two; later losses are waited out.
    connect_deadline_s: _Seconds = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesSettings:
    """``[devices]``: who may take part, and on what terms they enrol."""

    registry: PathText | None = None  # devices.toml: names and keys by hand, beside those that enrol
    approve: Literal["token", "manual"] = "token"  # manual: each waits for `edgefold devices approve`
    # Short, so that a stolen key ends by itself; long enough for a device that is away for a few days.
    certificate_days: Annotated[float, Range(0.0001, 398)] = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySettings:
    """``[authority]``: the fleet's certificate authority, made by ``edgefold serve init``."""

    folder: PathText
    host: Annotated[str, Length(1, 255)]  # the name or address by which devices reach the broker


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """``[evaluation]``: how versions are measured on held-out sets."""

    threads: Annotated[int, Range(1, 256)] = 1  # rounds on the same machine come first
    deadline_s: _Seconds = 600.0  # 2,000 sentences on one slow core take about 60 s


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvaluation:
    """``[task.evaluation]``: the held-out sets of one task."""

    sets: Annotated[dict[Name, PathText], Length(1, 64)]
    batch_size: Annotated[int, Range(1, 4096)] = 32


def _default_plan() -> Plan:
    return Plan(optimizer=Optimizer(), codec=Codec())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """``[[task]]``: one federated job."""

    id: Name
    bundle: PathText
    strategy: Name = "fedavg"  # `edgefold strategies` lists them
    strategy_options: Annotated[dict[Name, Any], Length(0, 64)] = field(default_factory=dict)  # the strategy's own
    rounds: Annotated[int, Range(1, 10**6)]  # folded ones; abandoned rounds do not count
    cohort: Annotated[int, Range(1, 10**5)]  # a round closes as soon as so many updates are in
    min_cohort: Annotated[int, Range(1, 10**5)]  # fewer at the deadline and the round is abandoned
    deadline_s: _Seconds = 600.0  # a Pi 4 trains 500 sentences in about 5 minutes
    # A device's weight in the mean is its count of examples, which it states itself: this caps what a liar gains.
    max_examples: Annotated[int, Range(1, MAX_EXAMPLES)] = 100_000
    broadcast: Literal["float16", "float32"] = "float16"  # half the bytes; adapters' values are far inside its range
    plan: Plan = field(default_factory=_default_plan)
    evaluation: TaskEvaluation | None = None
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    gate: GateSettings | None = None
    mode: Literal["sync", "async"] = "sync"  # by rounds, or by buffers that devices fill when they are done
    asynchronous: AsyncSettings | None = None
    retention: RetentionSettings | None = None  # in place of the service's
    metrics: MetricNames | None = None  # what devices are asked to tell of how they learn

    def __post_init__(self) -> None:
        """Refuse a round that could never close, a gate that measures nothing, and what no strategy can keep."""
        if self.gate is not None:
            missing = sorted(set(self.gate.sets) - set(self.evaluation.sets if self.evaluation else {}))
            if self.evaluation is None or missing:
                what = f"it names {missing[0]}, which" if missing else "it"
                raise FieldError(f"gate: {what} needs a set in [task.evaluation]")
        if self.min_cohort > self.cohort:
            raise FieldError(f"min_cohort: {self.min_cohort} is more than cohort = {self.cohort}")
        self.privacy.check_cohort(self.cohort, self.min_cohort)
        options_of(self.strategy, self.strategy_options)
        if self.plan.terms is not None:
            raise FieldError("plan.terms: they are the strategy's to set, see strategy_options")
        check_dp(self)
        check_mode(self)
        check_metrics(self)
        if self.selection.prefer_within_s is not None and self.privacy.is_secure_sum:
            raise FieldError("selection.prefer_within_s: a secure sum does not show how long a single device took")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """``aggregator.toml``."""

    service: ServiceSettings
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    authority: AuthoritySettings | None = None
    devices: DevicesSettings = field(default_factory=DevicesSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    fold: FoldSettings = field(default_factory=FoldSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    http: HttpSettings | None = None
    bundles: BundleSettings | None = None
    uploads: UploadSettings = field(default_factory=UploadSettings)
    task: Annotated[tuple[TaskSettings, ...], Length(0, 1000)] = ()  # none: devices may enrol before the first

    def __post_init__(self) -> None:
        """Refuse two tasks of one name, and a fleet that nobody can belong to."""
        if self.authority is None and self.devices.registry is None:
            raise FieldError("devices.registry: missing; without [authority] no device can enrol")
        if self.http is not None and self.http.tls == "authority" and self.authority is None:
            raise FieldError('http.tls: "authority" needs [authority]; edgefold serve init makes one')
        if self.bundles is not None and self.authority is None:
            raise FieldError("bundles: needs [authority]; edgefold serve init makes one")
        if self.ingest.names and self.service.database is None:
            raise FieldError(
                "ingest: workers need a database server, since SQLite has one writer: service.database = "
                '"postgresql+psycopg://..."'
            )
        ids = [task.id for task in self.task]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise FieldError(f"task: the id {twice[0]} occurs twice")


def load_config(path: Path, *, insecure_loopback: bool = False) -> Config:
    """Return the configuration in ``path``, its relative paths made absolute.

    Args:
        path: ``aggregator.toml``.
        insecure_loopback: said on the command line, it stands for ``broker.insecure_loopback = true``.

    Raises:
        ConfigError: see ``host.config.load`` (the user's fault).
    """
    folder = path.resolve().parent
    config = load(Config, path)

    def resolve(text: str) -> str:
        return str(folder / Path(text).expanduser())

    service, devices, authority = config.service, config.devices, config.authority
    if authority is not None:
        authority = dataclasses.replace(authority, folder=resolve(authority.folder))
    registry = None if devices.registry is None else resolve(devices.registry)
    blobs = service.blobs
    if blobs is not None and not is_url(blobs):
        blobs = resolve(blobs)
    fold = config.fold
    if fold.secret is not None:
        fold = dataclasses.replace(fold, secret=resolve(fold.secret))
    password_file = None if service.database_password_file is None else resolve(service.database_password_file)
    return dataclasses.replace(
        config,
        broker=dataclasses.replace(
            config.broker, insecure_loopback=config.broker.insecure_loopback or insecure_loopback
        ),
        service=dataclasses.replace(
            service,
            folder=resolve(service.folder),
            blobs=blobs,
            key=resolve(service.key),
            database_password_file=password_file,
        ),
        authority=authority,
        fold=fold,
        devices=dataclasses.replace(devices, registry=registry),
        task=tuple(resolve_task(task, folder) for task in config.task),
    )


def resolve_task(task: TaskSettings, folder: Path) -> TaskSettings:
    """Return ``task`` with its paths relative to ``folder`` made absolute."""

    def resolve(text: str) -> str:
        return str(folder / Path(text).expanduser())

    evaluation = task.evaluation
    if evaluation is not None:
        sets = {name: resolve(text) for name, text in evaluation.sets.items()}
        evaluation = dataclasses.replace(evaluation, sets=sets)
    privacy, selection = task.privacy.resolved(resolve), task.selection
    if selection.tags is not None:
        selection = dataclasses.replace(selection, tags=resolve(selection.tags))
    return dataclasses.replace(
        task, bundle=resolve(task.bundle), evaluation=evaluation, privacy=privacy, selection=selection
    )
