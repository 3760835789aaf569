"""48 simulated hours without a network, against a real service: nothing lost, nothing twice, stale work expired, flat.

The agent and the service are the real ones, on a wire in memory and one clock of the test's own: waiting costs no time.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from aggregator.async_settings import AsyncSettings
from aggregator.verification import verify_task
from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.app import Agent
from edge_agent.config import AgentConfig, BrokerSettings, DataSettings, DeviceSettings, TrainerSettings
from edge_agent.lessons import Lessons
from host.link import LinkDown, LinkUp
from protocol import codec, topics
from protocol.jobs import RESIDUAL_FILE, UPDATE_FILE, TrainJob, TrainResult
from protocol.messages import Receipt, Update, unpack_envelope
from protocol.signing import open_envelope
from protocol.uploads import Chunk, Upload
from tests.aggregator.workbench import FLEET, Bench, Device, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.link import LinkEvent
    from host.memory_link import MemoryLink
    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress
    from protocol.messages import Body
    from tests.aggregator.workbench import ManualClock

HOURS = 48
HOURS_A_VERSION = 4
HOUR_S = 3600.0
N_PARAMS = 6000  # with its seal 8 kB: three chunks of 4 kB
MAX_GROWTH_BYTES = 16_000  # of all that Python holds, over 46 hours
RESULT = TrainResult(
    n_examples=5, n_steps=2, loss=0.5, train_s=0.1, wall_s=0.2, peak_memory_bytes=1, update_norm=0.1, encoded_bytes=1
)


class Trainer:
    """Counts what it was asked for; done at once, but for the first job of a device, which ends when it is told."""

    pid = 1

    def __init__(self) -> None:
        self.jobs: list[TrainJob] = []
        self.finish: Callable[[], None] | None = None

    def __call__(
        self,
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> Trainer:
        del on_progress
        self.jobs.append(job)
        delta = np.random.default_rng(len(self.jobs)).normal(0, 1e-3, N_PARAMS).astype(np.float32)
        (Path(job.out) / UPDATE_FILE).write_bytes(codec.encode(delta, job.plan.codec))
        (Path(job.out) / RESIDUAL_FILE).write_bytes(bytes(4 * N_PARAMS))
        self.finish = lambda: on_end(RESULT)
        if len(self.jobs) > 1:
            self.finish()
        return self

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Air:
    """The device's link: away, it loses what is sent, and what comes waits at the broker, as its session does."""

    def __init__(self, inner: MemoryLink, clock: ManualClock) -> None:
        self._inner, self._clock = inner, clock
        self._said: list[LinkEvent] = []
        self.is_away, self.is_up = False, True
        self.acknowledge, self.close = inner.acknowledge, inner.close

    def wake(self) -> None:
        """Waiting takes no time here."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, correlation: bytes | None = None) -> bool:
        del correlation
        if self.is_away:
            return self.is_up  # up and still away: a connection that is dead and does not know it
        return self._inner.publish(topic, payload, retain=retain)

    def receive(self, timeout_s: float) -> LinkEvent | None:
        if self._said:
            return self._said.pop(0)
        event = None if self.is_away else self._inner.receive(0)
        if event is None:
            self._clock.now += max(timeout_s, 0.01)
        return event

    def down(self) -> None:
        self.is_away, self.is_up = True, False
        self._said.append(LinkDown(why="out of reach"))

    def flap(self) -> None:
        """Up, so that the agent sends, and nothing of it arrives."""
        self.is_up = True
        self._said.append(LinkUp(mqtt="5"))

    def up(self) -> None:
        self.is_away, self.is_up = False, True
        self._said.append(LinkUp(mqtt="5"))


class Wanderer:
    """A real agent that comes and goes, in the fleet of a bench."""

    def __init__(self, bench: Bench, folder: Path, *, is_chunked: bool) -> None:
        self.bench, self.trainer = bench, Trainer()
        self.key = Device.key_of("wanderer")
        bench.devices["wanderer"] = self.key.public
        filters = [topics.my_down(FLEET, "wanderer"), topics.all_announcements(FLEET)]
        self.air = Air(bench.broker.link(filters), bench.clock)
        self.folder = DeviceFolder(folder)
        broker = BrokerSettings(url="mqtt://127.0.0.1", chunk_above_kb=4 if is_chunked else 1024, chunk_kb=4)
        self.agent = Agent(
            AgentConfig(
                device=DeviceSettings(
                    fleet=FLEET, id="wanderer", key="k", service_key=bench.service_key.public.raw.hex()
                ),
                broker=broker,
                data=DataSettings(train="x.jsonl"),
                trainer=TrainerSettings(threads=1),
            ),
            lessons=Lessons(folder / "x.jsonl"),
            bundles={bench.bundle_id: bench.bundle},
            key=self.key,
            link=self.air,
            folder=self.folder,
            start_trainer=self.trainer,
            service_key=bench.service_key.public,
            clock=bench.clock.monotonic_s,
        )

    @property
    def phase(self) -> str:
        return self.agent.state.phase

    def live(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let the device and, where it is reached, the service go on."""
        end_s = self.bench.clock.now + seconds
        while self.bench.clock.now < end_s and not until():
            self.agent.turn()
            if not self.air.is_away:
                self.bench.settle()

    def said(self, cls: type[Body]) -> list[Body]:
        """Return what reached the broker of this device."""
        own = [data for topic, data in self.bench.broker.traffic if topic.startswith(topics.up(FLEET, "wanderer", ""))]
        bodies = [open_envelope(unpack_envelope(data), fleet=FLEET, key=self.key.public) for data in own]
        return [body for body in bodies if isinstance(body, cls)]

    def receipts(self) -> list[Receipt]:
        """Return what the service said of its updates."""
        down = topics.down(FLEET, "wanderer", "receipt")
        bodies = [
            open_envelope(unpack_envelope(data), fleet=FLEET, key=self.bench.service_key.public)
            for topic, data in self.bench.broker.traffic
            if topic == down
        ]
        return [body for body in bodies if isinstance(body, Receipt)]


def of_rounds(**more: object) -> dict[str, object]:
    return {"rounds": 500, "cohort": 3, "min_cohort": 2, "deadline_s": 600.0, **more}


def of_buffers(max_staleness: int) -> dict[str, object]:
    return {
        "mode": "async",
        "strategy": "fedbuff",
        "strategy_options": {"max_staleness": max_staleness},
        "asynchronous": AsyncSettings(concurrency=8, slot_s=1000.0),
        "rounds": 500,
        "cohort": 2,
        "min_cohort": 1,
    }


@pytest.fixture
def meet(tmp_path: Path, make_bench: Callable[..., Bench]) -> Callable[..., tuple[Bench, Wanderer]]:
    """Return a service and a device that trained in its first round and is out of reach before it could say so."""

    def make(*, is_chunked: bool = False, **settings: object) -> tuple[Bench, Wanderer]:
        folder = tmp_path / "bench"
        folder.mkdir()
        make_bundle(folder / "bundle", n_params=N_PARAMS)
        bench = make_bench("bench", **settings)
        wanderer = Wanderer(bench, tmp_path / "wanderer", is_chunked=is_chunked)
        wanderer.live(60.0, until=lambda: wanderer.phase == "training")
        wanderer.air.down()
        assert wanderer.trainer.finish is not None
        wanderer.trainer.finish()
        wanderer.live(60.0)
        assert wanderer.phase == "sending"
        return bench, wanderer

    return make


def others_go_on(bench: Bench, number: int) -> None:
    """Let two devices make the next version without the one that is away."""
    bench.settle()  # what became due since
    before = bench.version
    for name in (f"b{number}", f"c{number}"):
        device = bench.device(name)
        device.join()
        bench.settle()
        delta = np.random.default_rng(number).normal(0, 1e-3, N_PARAMS).astype(np.float32)
        device.update(delta=delta)
        bench.settle()
        device.link.close()
    bench.clock.now += 601
    bench.settle()
    assert bench.version > before


def days_away(bench: Bench, wanderer: Wanderer) -> None:
    """Be away for ``HOURS``: every fourth a version is made without it, and each hour the link comes up dead."""
    for hour in range(HOURS):
        if hour % HOURS_A_VERSION == 0:
            others_go_on(bench, hour)
        an_hour(wanderer)


def an_hour(wanderer: Wanderer) -> None:
    wanderer.air.flap()
    wanderer.live(HOUR_S / 6)
    wanderer.air.down()
    wanderer.live(HOUR_S * 5 / 6)


def is_proven(bench: Bench) -> bool:
    ids = bench.folded_ids()
    assert len(set(ids)) == len(ids)
    return verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


def back(bench: Bench, wanderer: Wanderer) -> None:
    """Come back, and go on until an update of the round of now is receipted."""
    wanderer.air.up()
    wanderer.live(600.0, until=lambda: len(wanderer.receipts()) >= 2)
    wanderer.live(1.0)
    assert len({update.update_id for update in wanderer.receipts()}) == 2
    assert bench.version >= HOURS / HOURS_A_VERSION


@pytest.mark.parametrize(
    ("settings", "reason"), [(of_rounds(), "late"), (of_buffers(5), "stale")], ids=["rounds", "buffers"]
)
def test_two_days_away_with_an_unsent_update_expire_it_once(
    settings: dict[str, object], reason: str, meet: Callable[..., tuple[Bench, Wanderer]]
) -> None:
    bench, wanderer = meet(**settings)
    days_away(bench, wanderer)
    assert wanderer.phase == "sending"  # it kept what it has to say
    assert wanderer.said(Update) == []
    assert len(wanderer.trainer.jobs) == 1  # and did not train it again
    back(bench, wanderer)
    assert [(one.status, one.reason) for one in wanderer.receipts()] == [("refused", reason), ("accepted", None)]
    assert len(wanderer.trainer.jobs) == 2
    assert wanderer.trainer.jobs[1].residual is None  # of an update that nobody has
    expired = wanderer.receipts()[0].update_id
    others_go_on(bench, HOURS)
    assert expired not in bench.folded_ids()
    assert is_proven(bench)


def test_memory_is_flat_over_two_days_without_a_network(meet: Callable[..., tuple[Bench, Wanderer]]) -> None:
    _, wanderer = meet(**of_rounds())
    for _ in range(2):
        an_hour(wanderer)
    tracemalloc.start()
    try:
        an_hour(wanderer)
        first_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(HOURS - 3):
            an_hour(wanderer)
        growth = tracemalloc.get_traced_memory()[0] - first_bytes
    finally:
        tracemalloc.stop()
    assert growth < MAX_GROWTH_BYTES


def test_two_days_away_are_forgiven_where_the_task_takes_what_is_so_old(
    meet: Callable[..., tuple[Bench, Wanderer]],
) -> None:
    bench, wanderer = meet(**of_buffers(HOURS))
    days_away(bench, wanderer)
    back(bench, wanderer)
    assert [one.status for one in wanderer.receipts()] == ["accepted", "accepted"]
    first = wanderer.receipts()[0].update_id
    others_go_on(bench, HOURS)
    taken = bench.store.taken(first)
    assert taken is not None
    assert (taken.round, taken.status) == (1, "folded")
    assert is_proven(bench)


def test_an_upload_that_was_begun_before_is_ended_by_its_manifest_alone(
    meet: Callable[..., tuple[Bench, Wanderer]],
) -> None:
    bench, wanderer = meet(is_chunked=True, **of_rounds())
    for hour in range(3):
        others_go_on(bench, hour)
    wanderer.air.up()
    wanderer.live(600.0, until=lambda: bool(wanderer.receipts()))
    assert [(one.status, one.reason) for one in wanderer.receipts()] == [("refused", "late")]
    assert len(wanderer.said(Upload)) == 1
    assert wanderer.said(Chunk) == []
    wanderer.live(600.0, until=lambda: len(wanderer.receipts()) == 2)
    assert wanderer.receipts()[1].status == "accepted"
    assert len(wanderer.said(Chunk)) == 3
    assert wanderer.said(Update) == []


def test_an_agent_that_restarts_while_it_is_away_goes_on_with_the_same_update(
    tmp_path: Path, meet: Callable[..., tuple[Bench, Wanderer]]
) -> None:
    bench, wanderer = meet(**of_buffers(20))
    others_go_on(bench, 0)
    state = wanderer.agent.state
    wanderer.folder.close()
    again = Wanderer(bench, tmp_path / "wanderer", is_chunked=False)
    assert again.agent.state == state
    again.live(600.0, until=lambda: bool(again.receipts()))
    assert [(one.status, one.update_id) for one in again.receipts()] == [("accepted", state.update_id)]
    assert again.trainer.jobs == []
    again.folder.close()
