"""The service that a simulation meets, known by its ``aggregator.toml`` alone, and what its commands say of a task."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from host.bundle_folder import open_bundle
from host.config import MAX_CONFIG_BYTES
from host.durable import read_bytes
from host.keys import load_signing_key
from host.link import BrokerAddress, parse_broker_url
from protocol.errors import ConfigError, EngineError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.signing import VerifyKey

__all__ = ["Service", "ask", "read_service"]

_COMMAND_DEADLINE_S: Final = 900.0  # folding a long history again takes its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What virtual devices must know of it."""

    config: Path
    fleet: str
    broker: BrokerAddress
    key: VerifyKey
    registry: Path
    state: Path
    task: str
    n_params: int
    initial_adapter: Path


def read_service(config: Path, task: str | None = None) -> Service:
    """Return the service that ``config`` configures; ``task`` may be left out where there is one.

    Raises:
        ConfigError: no such file, a fleet with certificates, or no such task in it (the user's fault).
        BundleError: the task's bundle is none.
    """
    try:
        facts: dict[str, Any] = tomllib.loads(read_bytes(config, max_bytes=MAX_CONFIG_BYTES).decode())
        tasks = {str(one["id"]): str(one["bundle"]) for one in facts["task"]}
        service, registry = facts["service"], facts["devices"]["registry"]
        fleet, key, state = str(service["fleet"]), str(service["key"]), str(service["folder"])
    except FileNotFoundError as error:
        raise ConfigError(f"{config}: no such configuration file") from error
    except (StorageError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{config}: virtual devices need a service with a registry and a task in it: {error}"
        ) from error
    if "authority" in facts:
        raise ConfigError(f"{config}: virtual devices have no certificates: use a fleet without [authority]")
    if task is None and len(tasks) != 1:
        raise ConfigError(f"{config}: say which task with --task: {', '.join(sorted(tasks)) or 'it has none'}")
    chosen = task or next(iter(tasks))
    if chosen not in tasks:
        raise ConfigError(f"{config}: there is no task {chosen}; known are: {', '.join(sorted(tasks))}")
    folder = config.resolve().parent
    bundle = open_bundle(folder / tasks[chosen])
    return Service(
        config=config,
        fleet=fleet,
        broker=_broker(facts.get("broker", {})),
        key=load_signing_key(folder / key).public,
        registry=folder / registry,
        state=folder / state,
        task=chosen,
        n_params=bundle.layout.n_params,
        initial_adapter=bundle.path("adapter.f32"),
    )


def ask(service: Service, *arguments: str) -> dict[str, Any]:
    """Return what ``edgefold task ARGUMENTS`` prints of the service's task.

    Raises:
        EngineError: it failed; the text is its last line.
    """
    verb, *more = arguments
    command = ["task", verb, service.task, *more, "--config", str(service.config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgefold", *command],
        capture_output=True,
        text=True,
        timeout=_COMMAND_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise EngineError(f"edgefold task {verb}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _broker(facts: dict[str, Any]) -> BrokerAddress:
    url = facts.get("url") or f"mqtt://{facts.get('host', '127.0.0.1')}:{facts.get('port', 1883)}"
    address = parse_broker_url(url)
    if address.is_tls:
        raise ConfigError(f"broker.url {url}: virtual devices have no certificates")
    return address
