"""``edgefold serve`` and ``edgefold broker``: start, wait for signals, end in good order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aggregator.app import TICK_S, Parts, Service
from aggregator.brokers import make_brokers
from aggregator.ingest_settings import service_filters
from aggregator.pulse import Pulse
from aggregator.setup import Workshop
from aggregator.trust_setup import make_trust
from host import logs
from host.allocator import keep_freed_memory
from host.mqtt_link import MqttLink
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from aggregator.brokers import Brokers
    from aggregator.config import Config
    from aggregator.ports import Supervisor
    from host.link import BrokerAddress

__all__ = ["FREED_BYTES", "run_broker", "run_service", "stop_on_signals"]

FREED_BYTES: Final = 128 << 20  # kept between updates: four of 5 million parameters, as they come, opened and unpacked

# At the end of all tasks: the last receipts and announcements reach the broker and the devices that are there.
_LINGER_S: Final = 1.0
_WORKERS_POLL_S: Final = 0.05


def run_service(config: Config, config_path: Path, *, exit_when_done: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or, if asked for, the end of all tasks; ``config_path`` is where ``config`` is from.

    Raises:
        ConfigError, TrustError, StorageError, TransportError: it cannot begin, or cannot go on.
    """
    logs.configure(level=config.service.log_level)
    keep_freed_memory(FREED_BYTES)
    stop = stop_on_signals()
    fleet = config.service.fleet
    with Workshop(config) as workshop:
        brokers = workshop.start_brokers()
        filters, dropped = service_filters(fleet, has_workers=workshop.staged is not None)
        client_id = f"edgefold-{fleet}-service"
        link = MqttLink(brokers.fleet, client_id=client_id, filters=filters, dropped=dropped, tls=brokers.tls)
        pulse = Pulse()
        workers = workshop.start_workers(brokers, config_path)
        parts = Parts(
            world=workshop.world,
            link=link,
            devices=workshop.devices,
            runners=workshop.runners,
            evaluations=workshop.evaluations,
            supervisors=(*brokers.supervisors, *workers),
            trust=make_trust(workshop, brokers),
            steering=workshop.steering,
            retention=workshop.retention,
            outage=workshop.outage,
            uploads=workshop.uploads,
            staged=workshop.staged,
            pulse=pulse,
        )
        service = Service(parts)
        with _web(workshop, brokers, pulse), _bundles(workshop, brokers), contextlib.closing(service):
            service.start()
            _await_workers(workshop, workers, stop)
            _await_broker(service, stop, brokers.fleet, deadline_s=config.broker.connect_deadline_s)
            key = workshop.world.conversation.public_key
            logs.event("service-ready", fleet=fleet, pid=os.getpid(), public_key=key)
            service.run(stop, exit_when_done=exit_when_done)
            if exit_when_done and not stop.is_set():
                _linger(service, stop)
    logs.event("service-stopped", fleet=fleet)


def run_broker(config: Config) -> None:
    """Run the broker alone until SIGTERM or SIGINT.

    Raises:
        ConfigError, TransportError: it cannot begin.
    """
    logs.configure(level=config.service.log_level)
    stop = stop_on_signals()
    folder = Path(config.service.folder)
    brokers = make_brokers(config, folder, max_packet_bytes=config.broker.max_packet_bytes)
    try:
        while not stop.wait(TICK_S):
            for supervisor in brokers.supervisors:
                supervisor.tick(time.monotonic())
    finally:
        for supervisor in brokers.supervisors:
            supervisor.close()


def _web(workshop: Workshop, brokers: Brokers, pulse: Pulse) -> contextlib.AbstractContextManager[object]:
    if workshop.config.http is None:
        return contextlib.nullcontext()
    from aggregator.web.server import WebServer  # noqa: PLC0415 - a service without [http] does without it

    return WebServer(workshop.config, workshop.folders, pulse=pulse, authority=brokers.authority)


def _bundles(workshop: Workshop, brokers: Brokers) -> contextlib.AbstractContextManager[object]:
    settings = workshop.config.bundles
    if settings is None or settings.url is not None or brokers.authority is None:
        return contextlib.nullcontext()
    from aggregator.web.bundle_server import BundleServer  # noqa: PLC0415 - as above

    return BundleServer(settings, workshop.shelf, brokers.authority)


def stop_on_signals() -> threading.Event:
    """Return what SIGTERM and SIGINT set."""
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return stop


def _await_workers(workshop: Workshop, workers: Sequence[Supervisor], stop: threading.Event) -> None:
    """Let our ingest workers subscribe before a device hears of us: what nobody subscribes to, a broker forgets."""
    config, staging = workshop.config, workshop.staging
    if staging is None or not workers:
        return
    since_unix_s, deadline_s = time.time(), time.monotonic() + config.broker.connect_deadline_s
    while not stop.is_set() and time.monotonic() < deadline_s:
        for one in workers:
            one.tick(time.monotonic())
        up = {one.worker for one in staging.workers() if one.seen_unix_s >= since_unix_s}
        if up.issuperset(config.ingest.local):
            return
        stop.wait(_WORKERS_POLL_S)
    logs.event("ingest-workers-late", level=logging.WARNING)  # devices send again


def _await_broker(service: Service, stop: threading.Event, address: BrokerAddress, *, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while not service.is_up and not stop.is_set():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"no MQTT broker answers at {address.host}:{address.port} within broker.connect_deadline_s = "
                f"{deadline_s:g}; start it, or leave broker.url out and edgefold serve runs one"
            )
        service.step(TICK_S)


def _linger(service: Service, stop: threading.Event) -> None:
    until = time.monotonic() + _LINGER_S
    while time.monotonic() < until and not stop.is_set():
        service.step(TICK_S)
