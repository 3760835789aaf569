"""``make test-flaps``: the way to a real broker comes and goes 200 times while a device works.

The device is a process of its own with the real agent and MQTT link; the service and its journal are here, on the other
side of Mosquitto. Afterwards everything must have been said once and heard, in memory that did not grow.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

import click

from host.link import BrokerAddress, LinkUp, Received
from host.memory import resident_bytes
from host.mqtt_link import MqttLink
from protocol import topics
from tests.faults.device import bundle_ids, device_key, live_on
from tests.faults.proxy import FlappingNetwork
from tests.faults.run import check, make_shelf
from tests.faults.world import FLEET, World
from tests.host.mosquitto import BINARY, MISSING, Mosquitto

_UP_S: Final = (0.0, 2.5)  # a device is back within half a second on average, and a round takes less than that
_DOWN_S: Final = (0.0, 0.6)
_CALM_S: Final = 90.0  # in the end: the longest wait between two attempts is 30 s
_MAX_GROWTH_BYTES: Final = 3 << 20  # from a fourth of the flaps to the end


class Service:
    """The world on a real broker."""

    def __init__(self, world: World, link: MqttLink) -> None:
        self.world, self._link = world, link

    def work_for(self, seconds: float) -> None:
        """Handle what comes."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            match self._link.receive(left_s):
                case LinkUp():
                    self.world.announce()
                case Received() as message:
                    self.world.take(message.payload)
                    self._link.acknowledge(message)


def run(folder: Path, *, flaps: int, seed: int) -> dict[str, float]:
    """Flap; return figures.

    Raises:
        AssertionError: something was lost, came twice, or memory grew.
    """
    here, journal, shelf = folder / "device", folder / "journal", make_shelf(folder / "shelf")
    for one in (here, folder / "broker"):
        one.mkdir()
    key, rng = device_key(here), random.Random(seed)
    broker = Mosquitto(folder / "broker", config="log_type none\n").start()
    network, pid = _forked_device(here, shelf, broker.port, seed)
    link = MqttLink(
        BrokerAddress(host="127.0.0.1", port=broker.port), client_id="service", filters=[topics.all_up(FLEET)]
    )
    service = Service(World(journal, link, bundle_ids(shelf), key.public), link)
    try:
        began_bytes = _flap(service, network, rng, flaps, pid)
        end_bytes = resident_bytes(pid) or 0
        target, until_s = service.world.round + 3, time.monotonic() + _CALM_S
        while service.world.round < target and time.monotonic() < until_s:
            service.work_for(0.2)
        assert service.world.round >= target, f"no three rounds in {_CALM_S:.0f} s of calm"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        link.close()
        network.close()
        broker.kill()
    check(here, journal, "the end")
    growth = end_bytes - began_bytes
    assert growth < _MAX_GROWTH_BYTES, f"the device grew by {growth / 1e6:.1f} MB"
    return {
        "flaps": flaps,
        "connections": network.n_connections,
        "rounds": service.world.round - 1,
        "grew by MB": round(growth / 1e6, 2),
    }


def _flap(service: Service, network: FlappingNetwork, rng: random.Random, flaps: int, pid: int) -> int:
    began_bytes = 0
    for number in range(flaps):
        service.work_for(rng.uniform(*_UP_S))
        network.cut()
        service.work_for(rng.uniform(*_DOWN_S))
        network.heal()
        if number <= flaps // 4:
            began_bytes = resident_bytes(pid) or 0
    return began_bytes


def _forked_device(here: Path, shelf: Path, port: int, seed: int) -> tuple[FlappingNetwork, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(here.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            live_on(here, shelf=shelf, port=int(os.read(reader, 16)))
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
        os._exit(1)
    network = FlappingNetwork(port, seed=seed)  # after the fork: it has threads
    os.write(writer, str(network.port).encode())
    os.close(reader)
    os.close(writer)
    return network, pid


def main() -> None:
    """Print what happened; an AssertionError says what was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flaps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if BINARY is None:
        raise SystemExit(MISSING)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    click.echo(f"seed {seed}")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgefold-flaps-") as folder:
        figures = run(Path(folder), flaps=options.flaps, seed=seed)
    click.echo(", ".join(f"{name} {value:g}" for name, value in figures.items()))
    click.echo(f"nothing lost, nothing said in two ways; {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
