"""The agent's configuration: one TOML file, read once. Paths are relative to the file's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from edge_agent.adapters.example_views import view
from edge_agent.bundle_settings import BundleSettings
from edge_agent.continual_settings import ContinualSettings
from edge_agent.mqtt_settings import LocalMqttSettings  # noqa: TC001 - structure() resolves the annotations
from edge_agent.predict_settings import PredictSettings
from edge_agent.privacy_settings import PrivacySettings
from edge_agent.rules_settings import RulesSettings
from edge_agent.store_settings import StoreSettings  # noqa: TC001 - structure() resolves the annotations
from host import config
from protocol.errors import ConfigError
from protocol.fields import FieldError, Hex, Length, Name, Range
from protocol.signing import SERVICE
from protocol.uploads import CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AgentConfig",
    "BrokerSettings",
    "DataSettings",
    "DeviceSettings",
    "TrainerSettings",
    "examples_path",
    "load_config",
]

_PathText = Annotated[str, Length(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Who this device is, and whom it believes. Identity and keys have no default."""

    fleet: Name
    id: Name
    key: _PathText  # the device's Ed25519 private key, mode 0600
    service_key: Hex | None = None  # the aggregator's Ed25519 public key; an enrolled device knows it
    service_second_key: _PathText | None = None  # a file: its ML-DSA-65 public key, likewise
    identity: _PathText = "identity"  # what `edgefold agent enrol` brings: certificate, its key, root, broker
    bundles: Annotated[tuple[_PathText, ...], Length(0, 64)] = ()  # copied here by hand; others are fetched
    folder: _PathText = "state"  # everything the agent writes
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        """Refuse the aggregator's name."""
        if self.id == SERVICE:
            raise FieldError(f"id: {SERVICE!r} is the aggregator's name")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the broker is."""

    url: Annotated[str, Length(1, 1024)] | None = None  # an enrolled device knows it
    fallback_url: Annotated[str, Length(1, 1024)] | None = None  # another way there, such as mqtts://HOST:443
    mqtt: Literal["auto", "5", "3.1.1"] = "auto"  # MQTT 5 first, 3.1.1 where the broker has no 5
    # A larger message goes in chunks, which a broken connection does not begin anew; so does one the broker refuses.
    chunk_above_kb: Annotated[int, Range(4, 65_536)] = 1024
    chunk_kb: Annotated[int, Range(MIN_CHUNK_BYTES // 1024, MAX_CHUNK_BYTES // 1024)] = CHUNK_BYTES // 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What the device learns from; it never leaves the device."""

    train: _PathText | None = None  # .jsonl or .csv with text and label; or [store] takes examples as they come
    max_examples: Annotated[int, Range(1, 10**7)] = 100_000  # bounds the trainer's memory: about 100 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How trainer processes run."""

    threads: Annotated[int, Range(1, 256)] | None = None  # all cores if absent
    nice: Annotated[int, Range(0, 19)] = 10  # whatever else the device does goes first
    memory_limit_mb: Annotated[int, Range(128, 1_000_000)] = 1024  # private memory; numpy alone needs 80
    engine: Annotated[str, Length(1, 64)] = "auto"  # the fastest that the bundle has and this machine too, or a name
    # A pass of forward and backward lasts at least so long: to rehearse fleets of unlike devices on one machine.
    least_pass_s: Annotated[float, Range(0.0, 3600.0)] = 0.0
    max_attempts: Annotated[int, Range(1, 10)] = 2  # a round whose training fails this often is skipped

    @property
    def n_threads(self) -> int:
        """How many threads to train with."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All of ``agent.toml``."""

    device: DeviceSettings
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    bundles: BundleSettings = field(default_factory=BundleSettings)
    rules: RulesSettings = field(default_factory=RulesSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    store: StoreSettings | None = None
    local_mqtt: LocalMqttSettings | None = None
    continual: ContinualSettings = field(default_factory=ContinualSettings)

    def __post_init__(self) -> None:
        """Refuse a broker without a service to believe, and the reverse: both come by hand or both by enrolment."""
        if (self.broker.url is None) != (self.device.service_key is None):
            raise FieldError("broker.url, device.service_key: give both, or neither and run edgefold agent enrol")
        if (self.data.train is None) == (self.store is None):
            raise FieldError("data.train, store: give one of them, a file of examples or a store that fills")
        if self.local_mqtt is not None and self.store is None and (self.local_mqtt.examples or self.local_mqtt.labels):
            raise FieldError("local_mqtt.examples, local_mqtt.labels: need a [store] to keep them in")
        if self.continual.personal and self.store is None:
            raise FieldError("continual.personal: needs a [store] to learn from")

    @property
    def predicts(self) -> bool:
        """Whether somebody on this machine asks the model."""
        return self.predict.port is not None or self.store is not None or self.local_mqtt is not None


def load_config(path: Path) -> AgentConfig:
    """Return the agent's configuration.

    Raises:
        ConfigError: see ``host.config.load``; or the data file is not there.
    """
    settings = config.load(AgentConfig, path)
    data = examples_path(path.parent, settings)
    if settings.store is None and not data.is_file():
        raise ConfigError(f"{path}: data.train: no such file: {data}")
    return settings


def examples_path(here: Path, settings: AgentConfig) -> Path:
    """Return what a job names to read all of the device's examples: its data file, or its store's view of all."""
    if settings.store is not None:
        return view(here / settings.store.folder, "all")
    return here / (settings.data.train or "")
