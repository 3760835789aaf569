"""``edgefold agent``: runs the agent on a device."""

from __future__ import annotations

import queue
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.examples_cli import examples, forget, label
from edge_agent.health_cli import doctor, status
from edge_agent.predict_cli import predict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from edge_agent.adapters.identity import FolderKeyStore, IdentityFolder
    from edge_agent.config import AgentConfig
    from edge_agent.ports import StartStep
    from edge_agent.renewal import Renewal
    from edge_agent.sums import DeviceSums
    from host.link import BrokerAddress
    from protocol.enrolment import Token
    from protocol.signing import SigningKey, VerifyKey

__all__ = ["agent"]

_ASK_APPROVAL_EVERY_S = 3.0


@click.group()
def agent() -> None:
    """Make this machine a learning device.

    The agent waits for rounds, trains the adapter on local examples in a child process, and sends sealed updates.
    Its examples never leave the machine.
    """


agent.add_command(doctor)
agent.add_command(status)
agent.add_command(predict)
agent.add_command(examples)
agent.add_command(label)
agent.add_command(forget)


@agent.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The agent's TOML file.")
def run(config_path: Path) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C.

    \b
    The smallest agent.toml (paths are relative to it; device.key is made if missing):
      [device]
      fleet = "home"
      id = "kitchen-pi"
      key = "device.key"
      [data]
      train = "examples.jsonl"     (or a store that fills: docs/continual.md)
    Enrol first: edgefold agent enrol; bundles are then fetched from the service, or copied by hand and named in
    [device] bundles = ["bundle"]. A fleet without certificates, on one machine, says in place of that:
      [device] service_key = "<64 hex digits>"   [broker] url = "mqtt://127.0.0.1:1883"
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is
    from edge_agent.config import load_config  # noqa: PLC0415 - --help needs none of this

    _run(config_path, load_config(config_path))


@agent.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The agent's TOML file.")
@click.option("--post-quantum", is_flag=True, help="Make a second key too, ML-DSA-65, and print its line.")
def key(config_path: Path, *, post_quantum: bool) -> None:
    """Print this device's line for the aggregator's devices.toml; make its key if there is none yet.

    A device that enrols needs none of it. With a second key it signs everything twice, and [second_keys] gets a line.
    """
    from edge_agent.config import load_config  # noqa: PLC0415
    from host.keys import load_or_make_signing_key  # noqa: PLC0415

    device = load_config(config_path).device
    public = load_or_make_signing_key(config_path.parent / device.key, with_second=post_quantum).public
    click.echo(f'{device.id} = "{public.raw.hex()}"')
    if public.second is not None:
        click.echo(f'[second_keys]\n{device.id} = "{public.second.hex()}"')


@agent.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The agent's TOML file.")
@click.option("--token", "token_text", help="What `edgefold devices token` printed.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token.")
@click.option("--erase", is_flag=True, help="Erase the token's file once this device is enrolled.")
@click.option("--deadline", type=click.FloatRange(1, 3600), default=30.0, show_default=True, help="Seconds to answer.")
@click.option("--wait", type=click.FloatRange(0, 86_400), default=0.0, show_default=True, help="Seconds for approval.")
def enrol(
    config_path: Path,
    token_text: str | None,
    token_file: Path | None,
    *,
    erase: bool,
    deadline: float,
    wait: float,
) -> None:
    """Make this device known to its fleet: keys are made here, the token is exchanged for a certificate.

    May be repeated: the same token gives this device the same certificate.
    """
    from edge_agent.adapters.token_file import erase_token, read_token  # noqa: PLC0415
    from edge_agent.config import load_config  # noqa: PLC0415
    from protocol.enrolment import parse_token  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    if (token_text is None) == (token_file is None):
        raise ConfigError("--token, --token-file: expected one of them")
    config = load_config(config_path)
    token = parse_token(token_text if token_file is None else read_token(token_file))  # type: ignore[arg-type]  # one is given
    if token.fleet != config.device.fleet:
        raise ConfigError(f"the token is for fleet {token.fleet}, device.fleet is {config.device.fleet}")
    if not _enrolled(config_path, config, token, deadline=deadline, wait=wait):
        return click.echo(f"{config.device.id}: waits for `edgefold devices approve`; then run this again")
    if token_file is not None and erase:
        erase_token(token_file)
    return click.echo(f"{config.device.id}: enrolled; next: edgefold agent run --config {config_path}")


def _enrolled(config_path: Path, config: AgentConfig, token: Token, *, deadline: float, wait: float) -> bool:
    """Ask until the service has let this device in, or ``wait`` seconds have passed."""
    from edge_agent.enrolment import enrol as ask  # noqa: PLC0415

    keys, identity = _identity(config_path, config)
    until_s = time.monotonic() + wait
    while ask(config.device.id, token, keys=keys, identity=identity, deadline_s=deadline).status != "enrolled":
        if time.monotonic() >= until_s:
            return False
        time.sleep(_ASK_APPROVAL_EVERY_S)
    return True


def _identity(config_path: Path, config: AgentConfig) -> tuple[FolderKeyStore, IdentityFolder]:
    from edge_agent.adapters.identity import FolderKeyStore, IdentityFolder  # noqa: PLC0415

    folder = config_path.parent / config.device.identity
    keys = FolderKeyStore(signing_key=config_path.parent / config.device.key, folder=folder)
    return keys, IdentityFolder(folder, keys)


def _run(config_path: Path, config: AgentConfig) -> None:
    from edge_agent.adapters.device_folder import DeviceFolder  # noqa: PLC0415
    from edge_agent.adapters.sensors import make_sensors  # noqa: PLC0415
    from edge_agent.app import Agent  # noqa: PLC0415
    from edge_agent.beside import beside_rounds, lessons_of  # noqa: PLC0415
    from edge_agent.bundle_setup import DeviceBundles  # noqa: PLC0415
    from edge_agent.conduct import Conduct  # noqa: PLC0415
    from edge_agent.trainer_starts import make_launch, step_starter, trainer_starter  # noqa: PLC0415
    from host import logs  # noqa: PLC0415
    from host.mqtt_link import MqttLink  # noqa: PLC0415
    from protocol import topics  # noqa: PLC0415

    here, device = config_path.parent, config.device
    way = _way(config_path, config)
    fallback = _fallback(config, way)
    key = way.key
    logs.configure(level=device.log_level)
    bundles = DeviceBundles(here, config, url=way.bundle_url)
    launch = make_launch(config)
    folder = DeviceFolder(here / device.folder)
    link = MqttLink(
        way.address,
        client_id=device.id,
        filters=[topics.my_down(device.fleet, device.id), topics.all_announcements(device.fleet)],
        mqtt=config.broker.mqtt,
        tls=way.tls,
        fallback=fallback,
    )
    should_stop: queue.SimpleQueue[None] = queue.SimpleQueue()

    def stop(*_: object) -> None:
        should_stop.put(None)
        link.wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        Agent(
            config,
            lessons=lessons_of(here, config),
            bundles=bundles.folders,
            key=key,
            link=link,
            folder=folder,
            start_trainer=trainer_starter(launch, bundles.engines),
            service_key=way.service_key,
            renewal=way.renewal,
            sums=_sums(here, config, way, step_starter(launch)),
            fetch=bundles.fetch(way.tls, link.wake),
            conduct=Conduct(config.rules, here / device.folder, make_sensors(config.rules, here, here / device.folder)),
            beside=beside_rounds(here, config, bundles.folders),
        ).run(should_stop)
    finally:
        link.close()
        folder.close()
    logs.event("agent-stopped", device=device.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How to reach the broker and whom to believe."""

    address: BrokerAddress
    key: SigningKey
    service_key: VerifyKey
    tls: Callable[[], ssl.SSLContext] | None = None
    renewal: Renewal | None = None
    root: Path | None = None
    bundle_url: str | None = None


def _way(config_path: Path, config: AgentConfig) -> _Way:
    from edge_agent.parties import believed_service, own_key  # noqa: PLC0415
    from host.link import parse_broker_url  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    url, device, here = config.broker.url, config.device, config_path.parent
    if url is not None and device.service_key is not None and not parse_broker_url(url).is_tls:
        return _Way(
            address=parse_broker_url(url),
            key=own_key(device, here=here, enrolment=None),
            service_key=believed_service(device, here=here, enrolment=None),
        )
    from edge_agent.renewal import Renewal  # noqa: PLC0415 - X.509 costs a device without certificates nothing
    from host.tls import client_context  # noqa: PLC0415

    keys, identity = _identity(config_path, config)
    files, enrolment = identity.tls_files(), identity.enrolment
    if enrolment is None or (enrolment.fleet, enrolment.device) != (device.fleet, device.id):
        raise ConfigError("device.fleet, device.id: this device enrolled as another; enrol it under the new name")
    client_context(files)  # a damaged file is one line now rather than a link that never comes up
    return _Way(
        address=parse_broker_url(url or enrolment.broker_url),
        key=own_key(device, here=here, enrolment=enrolment),
        service_key=believed_service(device, here=here, enrolment=enrolment),
        tls=lambda: client_context(files),
        renewal=Renewal(device.id, identity, keys),
        root=files.root,
        bundle_url=config.bundles.url or enrolment.bundle_url,
    )


def _fallback(config: AgentConfig, way: _Way) -> BrokerAddress | None:
    from host.link import parse_broker_url  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    if config.broker.fallback_url is None:
        return None
    address = parse_broker_url(config.broker.fallback_url)
    if address.is_tls != way.address.is_tls:
        raise ConfigError("broker.fallback_url: expected the scheme of the broker's own address, mqtts or mqtt")
    return address


def _sums(here: Path, config: AgentConfig, way: _Way, start: StartStep) -> DeviceSums:
    from edge_agent.adapters.sum_folder import SumFolder  # noqa: PLC0415
    from edge_agent.sums import DeviceSums, Peers  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    registry = None if config.privacy.directory is None else here / config.privacy.directory
    if registry is not None and not registry.is_file():
        raise ConfigError(f"privacy.directory: no such file: {registry}")
    return DeviceSums(
        config.privacy,
        fleet=config.device.fleet,
        device=config.device.id,
        key=way.key,
        folder=SumFolder(here / config.device.folder),
        peers=Peers(root=way.root, registry=registry),
        start=start,
    )
