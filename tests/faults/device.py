"""A whole agent in this process, on a fake wire, with a trainer that is done at once: real folders, keys, bundles."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.adapters.fetched_bundles import FetchedBundles
from edge_agent.app import Agent
from edge_agent.bundle_fetch import BundleFetch
from edge_agent.conduct import Conduct
from edge_agent.config import AgentConfig, BrokerSettings, DataSettings, DeviceSettings, TrainerSettings
from edge_agent.core.eligibility import Readings
from edge_agent.lessons import Lessons
from edge_agent.rules_settings import RulesSettings
from host.durable import write_bytes
from host.keys import load_or_make_signing_key
from host.link import BrokerAddress
from host.memory_link import MemoryBroker, MemoryLink
from host.mqtt_link import MqttLink
from protocol import topics
from protocol.jobs import KEPT_FILE, RESIDUAL_FILE, UPDATE_FILE, TrainJob, TrainResult
from tests.faults.world import DEVICE, FLEET, SERVICE_KEY, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from host.link import Link
    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress
    from protocol.signing import SigningKey

RESULT = TrainResult(
    n_examples=5, n_steps=2, loss=0.5, train_s=0.1, wall_s=0.2, peak_memory_bytes=1, update_norm=1.0, encoded_bytes=1
)
MAX_BUNDLE_BYTES = 40_000  # two of the three
SETTLE_S = 20.0
LARGE_BYTES = 18_000
# Each look writes the record: every turn has a durable step of its own.
RULES = RulesSettings(max_minutes_a_day=1440, look_every_s=0.05)


def kept_of(round_: int) -> bytes:
    """Return the personal part that round leaves: what must never be lost or mixed up."""
    return hashlib.sha256(b"personal %d" % round_).digest()


class Trainer:
    """Done as soon as it starts, with the files of a real one."""

    pid = 1

    def __call__(
        self,
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> Trainer:
        del on_progress
        out = Path(job.out)
        round_ = int((out / "adapter.payload").read_bytes().split()[1])
        padding = os.urandom(LARGE_BYTES) if round_ % 2 else b""  # every other update goes in chunks
        write_bytes(out / UPDATE_FILE, b"delta %d" % round_ + padding)
        write_bytes(out / RESIDUAL_FILE, kept_of(round_))
        write_bytes(out / KEPT_FILE, kept_of(round_))
        on_end(RESULT)
        return self

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Wire:
    """The device's link, on which whatever is sent has arrived before ``publish`` returns: nothing is lost by a cut."""

    def __init__(self, inner: MemoryLink) -> None:
        self._inner = inner
        self.is_up = True
        self.arrived: Callable[[bytes], None] = lambda _: None
        self.receive, self.wake = inner.receive, inner.wake
        self.acknowledge, self.close = inner.acknowledge, inner.close

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> bool:
        del topic, retain, correlation
        self.arrived(payload)
        return True


class FolderFiles:
    """Bundles' files from folders beside the device."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str, *, first: int, n_bytes: int) -> Iterator[bytes]:
        data = (self._root / path).read_bytes()[first:n_bytes]
        yield from (data[i : i + 40] for i in range(0, len(data), 40))

    def read_small(self, path: str, *, max_bytes: int) -> bytes:
        del max_bytes
        return (self._root / path).read_bytes()


def device_key(here: Path) -> SigningKey:
    """Return the device's key, made the first time."""
    return load_or_make_signing_key(here / "device.key")


def make_agent(here: Path, *, shelf: Path, link: Link, folder: DeviceFolder) -> Agent:
    """Return the agent of the device in ``here``."""
    config = AgentConfig(
        device=DeviceSettings(fleet=FLEET, id=DEVICE, key="device.key", service_key=SERVICE_KEY.public.raw.hex()),
        broker=BrokerSettings(url="mqtt://127.0.0.1", chunk_above_kb=4, chunk_kb=4),
        data=DataSettings(train="x.jsonl"),
        trainer=TrainerSettings(threads=1),
    )
    fetched = FetchedBundles(here / "bundles", max_bytes=MAX_BUNDLE_BYTES, free_bytes=0)
    return Agent(
        config,
        lessons=Lessons(here / "x.jsonl"),
        bundles={one.id: one.folder for one in fetched.load()},
        key=device_key(here),
        link=link,
        folder=folder,
        start_trainer=Trainer(),
        service_key=SERVICE_KEY.public,
        fetch=BundleFetch(fetched, FolderFiles(shelf), take=lambda _: None, wake=link.wake),
        conduct=Conduct(RULES, here / "state", lambda _: Readings(day=1, minute=0)),
    )


def bundle_ids(shelf: Path) -> list[str]:
    """Return the ids of the bundles that the task goes through."""
    return sorted(path.name for path in shelf.iterdir())


def live(here: Path, *, journal: Path, shelf: Path, n_rounds: int | None) -> None:
    """Be the device in ``here`` until ``n_rounds`` more rounds are folded and receipted, or for ever."""
    key = device_key(here)
    folder = DeviceFolder(here / "state")
    broker = MemoryBroker()
    world = World(journal, broker.link([]), bundle_ids(shelf), key.public)
    world.announce()
    link = Wire(broker.link([topics.my_down(FLEET, DEVICE), topics.all_announcements(FLEET)]))
    link.arrived = world.take
    agent = make_agent(here, shelf=shelf, link=link, folder=folder)
    target = None if n_rounds is None else world.round + n_rounds
    round_, until_s = world.round, time.monotonic() + SETTLE_S
    while target is None or world.round < target or agent.state.phase == "sending":
        link.wake()
        agent.turn()
        if world.round != round_:
            round_, until_s = world.round, time.monotonic() + SETTLE_S
        if time.monotonic() > until_s:
            raise TimeoutError(f"nothing came of round {world.round} in {SETTLE_S:.0f} s: {agent.state}")
    folder.close()


def live_on(here: Path, *, shelf: Path, port: int) -> None:
    """Be the device in ``here`` on a real broker, by whatever network leads to ``port``, for ever."""
    link = MqttLink(
        BrokerAddress(host="127.0.0.1", port=port),
        client_id=DEVICE,
        filters=[topics.my_down(FLEET, DEVICE), topics.all_announcements(FLEET)],
    )
    agent = make_agent(here, shelf=shelf, link=link, folder=DeviceFolder(here / "state"))
    while True:
        agent.turn()
