"""``edgefold agent``: runs the agent on a device."""

from __future__ import annotations

import queue
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.config import AgentConfig
    from edge_agent.ports import Running, StartTrainer
    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress, TrainJob, TrainResult

__all__ = ["agent"]


@click.group()
def agent() -> None:
    """Make this machine a learning device.

    The agent waits for rounds, trains the adapter on local examples in a child process, and sends sealed updates.
    Its examples never leave the machine.
    """


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
      service_key = "<64 hex digits: public_key in the first lines of `edgefold serve`>"
      bundles = ["bundle"]
      [broker]
      url = "mqtt://127.0.0.1:1883"
      [data]
      train = "examples.jsonl"
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is
    from edge_agent.config import load_config  # noqa: PLC0415 - --help needs none of this

    _run(config_path, load_config(config_path))


@agent.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The agent's TOML file.")
def key(config_path: Path) -> None:
    """Print this device's line for the aggregator's devices.toml; make its key if there is none yet."""
    from edge_agent.config import load_config  # noqa: PLC0415
    from host.keys import load_or_make_signing_key  # noqa: PLC0415

    device = load_config(config_path).device
    public = load_or_make_signing_key(config_path.parent / device.key).public
    click.echo(f'{device.id} = "{public.raw.hex()}"')


def _run(config_path: Path, config: AgentConfig) -> None:
    from edge_agent.adapters.device_folder import DeviceFolder  # noqa: PLC0415
    from edge_agent.app import Agent  # noqa: PLC0415
    from host import logs  # noqa: PLC0415
    from host.bundle_folder import open_bundle  # noqa: PLC0415
    from host.keys import load_or_make_signing_key  # noqa: PLC0415
    from host.link import parse_broker_url  # noqa: PLC0415
    from host.mqtt_link import MqttLink  # noqa: PLC0415
    from protocol import topics  # noqa: PLC0415

    here, device = config_path.parent, config.device
    address = parse_broker_url(config.broker.url)
    key = load_or_make_signing_key(here / device.key)
    bundles = [open_bundle(here / folder) for folder in device.bundles]
    logs.configure(level=device.log_level)
    folder = DeviceFolder(here / device.folder)
    link = MqttLink(
        address,
        client_id=device.id,
        filters=[topics.my_down(device.fleet, device.id), topics.all_announcements(device.fleet)],
        mqtt=config.broker.mqtt,
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
            data=here / config.data.train,
            bundles={bundle.id: bundle.folder for bundle in bundles},
            key=key,
            link=link,
            folder=folder,
            start_trainer=_trainer_starter(config),
        ).run(should_stop)
    finally:
        link.close()
        folder.close()
    logs.event("agent-stopped", device=device.id)


def _trainer_starter(config: AgentConfig) -> StartTrainer:
    from host.trainer_process import Launch, TrainerProcess  # noqa: PLC0415

    limit_bytes = config.trainer.memory_limit_mb * 2**20
    launch = Launch(nice=config.trainer.nice, memory_limit_bytes=limit_bytes)

    def start(
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> Running:
        return TrainerProcess(job, on_end=on_end, on_progress=on_progress, launch=launch)  # type: ignore[arg-type]  # a TrainJob ends in a TrainResult

    return start
