"""Drives a whole agent over a fake wire, with a fake trainer, against the service's side of the protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest

from edge_agent.adapters.device_folder import DeviceFolder, read_receipt
from edge_agent.app import Agent
from edge_agent.config import AgentConfig, BrokerSettings, DataSettings, DeviceSettings, TrainerSettings
from edge_agent.core.session import SendJoin
from edge_agent.lessons import Lessons
from edge_agent.privacy_settings import PrivacySettings
from host.memory_link import MemoryBroker
from protocol import codec, topics
from protocol.errors import EngineError
from protocol.jobs import RESIDUAL_FILE, UPDATE_FILE, TrainJob, TrainResult
from protocol.messages import (
    Announce,
    Body,
    Codec,
    Decline,
    Join,
    Optimizer,
    Plan,
    Receipt,
    Update,
    Work,
    unpack_content,
    unpack_envelope,
)
from protocol.sealing import TaskKey, binding
from protocol.signing import SERVICE, SigningKey, open_envelope, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from protocol.errors import EdgefoldError
    from protocol.jobs import Progress

FLEET, DEVICE, BUNDLE, TASK = "f", "dev-1", "b" * 64, "t"
N = 10
PLAN = Plan(optimizer=Optimizer(), codec=Codec(name="float32"))
RESULT = TrainResult(
    n_examples=5, n_steps=2, loss=0.5, train_s=0.1, wall_s=0.2, peak_memory_bytes=1, update_norm=1.0, encoded_bytes=1
)
B = TypeVar("B", bound=Body)


class FakeTrainer:
    """Ends when the test says so; writes what a trainer writes."""

    def __init__(self) -> None:
        self.jobs: list[TrainJob] = []
        self.n_values = N
        self.n_closed, self.is_paused = 0, False
        self._on_end: Callable[[TrainResult | EdgefoldError], None] | None = None

    def __call__(
        self,
        job: TrainJob,
        *,
        on_end: Callable[[TrainResult | EdgefoldError], None],
        on_progress: Callable[[Progress], None],
    ) -> FakeTrainer:
        del on_progress
        self.jobs.append(job)
        self._on_end = on_end
        return self

    def finish(self, outcome: TrainResult | EdgefoldError = RESULT) -> None:
        out = Path(self.jobs[-1].out)
        (out / UPDATE_FILE).write_bytes(codec.encode(np.full(self.n_values, 0.25, np.float32), Codec(name="float32")))
        (out / RESIDUAL_FILE).write_bytes(bytes(4 * N))
        assert self._on_end is not None
        on_end, self._on_end = self._on_end, None
        on_end(outcome)

    pid = 1

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.n_closed += 1
        if self.jobs and self._on_end is not None:
            self._on_end(EngineError("ended by signal 9"))  # as a real one says, late
            self._on_end = None


class FakeFetch:
    """Brings what the test says."""

    def __init__(self) -> None:
        self.needed, self.came = set[str](), dict[str, Path]()

    def turn(self, needed: set[str], held: dict[str, Path]) -> bool:
        self.needed = needed
        new = self.came.keys() - held.keys()
        held.update(self.came)
        return bool(new)


class Rig:
    """One agent, one fake trainer, and the service's end of the wire."""

    privacy = PrivacySettings()
    broker_settings = BrokerSettings(url="mqtt://127.0.0.1")

    def __init__(self, folder: Path, *, max_packet_bytes: int | None = None) -> None:
        self.broker = MemoryBroker(max_packet_bytes=max_packet_bytes)
        self.service_key, self.device_key = SigningKey.generate(), SigningKey.generate()
        self.task_key = TaskKey.generate()
        self.folder = folder
        self.service = self.broker.link([topics.all_up(FLEET)])
        self.start()

    def start(self) -> None:
        self.trainer = FakeTrainer()
        self.device_folder = DeviceFolder(self.folder / "state")
        self.link = self.broker.link([topics.my_down(FLEET, DEVICE), topics.all_announcements(FLEET)])
        config = AgentConfig(
            device=DeviceSettings(
                fleet=FLEET, id=DEVICE, key="k", service_key=self.service_key.public.raw.hex(), bundles=("b",)
            ),
            broker=self.broker_settings,
            data=DataSettings(train="x.jsonl"),
            trainer=TrainerSettings(threads=1),
            privacy=self.privacy,
        )
        self.agent = Agent(
            config,
            lessons=Lessons(self.folder / "x.jsonl"),
            bundles={BUNDLE: self.folder / "bundle"},
            key=self.device_key,
            link=self.link,
            service_key=self.service_key.public,
            folder=self.device_folder,
            start_trainer=self.trainer,
        )

    def crash(self) -> None:
        """Lose the process: nothing of its memory survives, its folder does."""
        self.device_folder.close()
        self.link.close()

    def turns(self) -> None:
        """Let the agent handle all that waits for it."""
        for _ in range(3):  # a message may lead to a sending, and that to an answer
            self.link.wake()  # so that no turn waits
            while not self.link._events.empty():
                self.agent.turn()

    def say(self, body: Body, *, key: SigningKey | None = None) -> None:
        topic = topics.announce(FLEET, TASK) if isinstance(body, Announce) else topics.down(FLEET, DEVICE, "x")
        envelope = sign(body, fleet=FLEET, sender=SERVICE, key=key or self.service_key)
        self.broker.route(topic, envelope, retain=isinstance(body, Announce))
        self.turns()

    def heard(self, cls: type[B]) -> list[B]:
        """Return all messages of one kind that the agent has sent."""
        bodies = [
            open_envelope(unpack_envelope(payload), fleet=FLEET, key=self.device_key.public)
            for topic, payload in self.broker.traffic
            if "/up/" in topic
        ]
        return [body for body in bodies if isinstance(body, cls)]

    def announce(self, round_: int, state: str = "open") -> Announce:
        return Announce(task=TASK, state=state, round=round_, version=round_ - 1, bundle_id=BUNDLE)  # type: ignore[arg-type]

    def work(self, round_: int) -> Work:
        return Work(
            task=TASK,
            round=round_,
            version=round_ - 1,
            bundle_id=BUNDLE,
            plan=PLAN,
            adapter=codec.encode(np.zeros(N, np.float32), Codec(name="float32")),
            task_key=self.task_key.public_raw,
            seconds_left=60.0,
        )

    def receipt(self, update: Update, status: str = "accepted") -> Receipt:
        reason = None if status == "accepted" else "late"
        return Receipt(task=TASK, round=update.round, update_id=update.update_id, status=status, reason=reason)  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.device_folder.close()


def to_sending(rig: Rig, round_: int = 1) -> Update:
    rig.say(rig.announce(round_))
    rig.say(rig.work(round_))
    rig.trainer.finish()
    rig.turns()
    return rig.heard(Update)[-1]


def test_a_round_goes_from_announcement_to_a_sealed_update_that_the_service_can_open(rig: Rig) -> None:
    update = to_sending(rig)
    assert [join.round for join in rig.heard(Join)] == [1]
    info = binding(
        fleet=FLEET, task=TASK, bundle_id=BUNDLE, round_=1, version=0, device=DEVICE, update_id=update.update_id
    )
    content = unpack_content(rig.task_key.open(update.sealed, info=info))
    assert content.n_examples == 5
    assert codec.decode(content.delta, n_values=N).tolist() == [0.25] * N


def test_a_call_is_spread_over_the_time_that_the_announcement_says(rig: Rig) -> None:
    rig.say(replace(rig.announce(1), spread_s=80_000.0))
    assert rig.heard(Join) == []
    rig.say(replace(rig.announce(2), spread_s=0.0))
    assert [join.round for join in rig.heard(Join)] == [2]


def test_the_trainer_gets_the_adapter_the_plan_and_the_devices_own_data(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    job = rig.trainer.jobs[0]
    assert job.plan == PLAN
    assert job.data == str(rig.folder / "x.jsonl")
    assert job.bundle == str(rig.folder / "bundle")
    assert job.residual is None
    assert Path(str(job.adapter)).read_bytes() == rig.work(1).adapter


def test_after_an_accepted_update_the_next_round_adds_the_residual(rig: Rig) -> None:
    update = to_sending(rig)
    rig.say(rig.receipt(update))
    rig.say(rig.announce(2))
    rig.say(rig.work(2))
    assert rig.trainer.jobs[1].residual is not None
    assert Path(str(rig.trainer.jobs[1].residual)).read_bytes() == bytes(4 * N)


def test_after_a_refused_update_no_residual_is_kept(rig: Rig) -> None:
    update = to_sending(rig)
    rig.say(rig.receipt(update, "refused"))
    rig.say(rig.announce(2))
    rig.say(rig.work(2))
    assert rig.trainer.jobs[1].residual is None


def test_the_last_receipt_can_be_read_beside_the_agent(rig: Rig) -> None:
    assert read_receipt(rig.folder / "state") is None
    receipt = rig.receipt(to_sending(rig), "refused")
    rig.say(receipt)
    found = read_receipt(rig.folder / "state")
    assert found is not None
    assert found[0] == receipt


def test_a_forged_announcement_is_not_followed(rig: Rig) -> None:
    rig.say(rig.announce(1), key=SigningKey.generate())
    assert rig.heard(Join) == []


def test_garbage_on_the_wire_is_survived(rig: Rig) -> None:
    rig.broker.route(topics.down(FLEET, DEVICE, "work"), b"\xff" * 100, retain=False)
    rig.turns()
    rig.say(rig.announce(1))
    assert len(rig.heard(Join)) == 1


def test_a_restart_while_training_trains_again_from_the_stored_work(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.crash()
    rig.start()
    rig.turns()
    assert len(rig.trainer.jobs) == 1
    rig.trainer.finish()
    rig.turns()
    assert len(rig.heard(Update)) == 1
    assert len(rig.heard(Join)) == 1


def test_a_restart_with_a_full_outbox_sends_the_very_same_update(rig: Rig) -> None:
    update = to_sending(rig)
    rig.crash()
    rig.start()
    rig.turns()
    assert rig.heard(Update) == [update, update]
    assert rig.trainer.jobs == []


def test_a_link_that_comes_back_brings_the_update_again(rig: Rig) -> None:
    update = to_sending(rig)
    rig.broker.drop()
    rig.turns()
    rig.broker.restore()
    rig.turns()
    assert rig.heard(Update) == [update, update]


def test_an_update_finished_while_offline_is_sent_when_the_link_is_back(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.broker.drop()
    rig.trainer.finish()
    rig.turns()
    assert rig.heard(Update) == []
    rig.broker.restore()
    rig.turns()
    assert len(rig.heard(Update)) == 1


def test_a_later_round_ends_the_trainer_and_is_joined(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.say(rig.announce(2))
    assert rig.trainer.n_closed == 1
    assert [join.round for join in rig.heard(Join)] == [1, 2]


def test_work_of_an_asynchronous_task_goes_on_and_the_newest_is_joined_after_it(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    for round_ in (2, 3):
        rig.say(replace(rig.announce(round_), oldest_round=1))
    assert rig.trainer.n_closed == 0
    rig.trainer.finish()
    rig.turns()
    (update,) = rig.heard(Update)
    assert (update.round, update.version) == (1, 0)
    rig.say(rig.receipt(update))
    assert [join.round for join in rig.heard(Join)] == [1, 3]


def test_an_engine_that_fails_twice_skips_the_round_and_takes_the_next(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    for _ in range(2):
        rig.trainer.finish(EngineError("boom"))
        rig.turns()
    assert len(rig.trainer.jobs) == 2
    assert rig.heard(Update) == []
    rig.say(rig.announce(2))
    assert [join.round for join in rig.heard(Join)] == [1, 2]


def test_a_round_on_an_unknown_bundle_is_left_alone(rig: Rig) -> None:
    rig.say(Announce(task=TASK, state="open", round=1, version=0, bundle_id="c" * 64))
    assert rig.heard(Join) == []


def test_a_bundle_that_comes_later_lets_the_device_join(rig: Rig) -> None:
    fetch, new = FakeFetch(), "c" * 64
    rig.agent._fetch = fetch  # type: ignore[assignment]
    rig.say(Announce(task=TASK, state="open", round=1, version=0, bundle_id=new))
    assert fetch.needed == {new}
    assert rig.heard(Join) == []
    fetch.came[new] = rig.folder / "new"
    rig.turns()
    assert [join.bundle_id for join in rig.heard(Join)] == [new]


def test_a_bundle_that_went_since_the_work_came_gives_up_the_round_only(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.crash()
    rig.start()
    rig.agent._bundles.clear()
    rig.turns()
    assert rig.trainer.jobs == []
    rig.agent._bundles[BUNDLE] = rig.folder / "bundle"
    rig.say(rig.announce(2))
    assert [join.round for join in rig.heard(Join)] == [1, 2]


def test_a_declined_round_is_not_joined_again(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(Decline(task=TASK, round=1, reason="not-selected"))
    rig.say(rig.announce(1))
    assert len(rig.heard(Join)) == 1


def test_an_outbox_lost_to_a_damaged_disk_gives_up_the_round_only(rig: Rig) -> None:
    to_sending(rig)
    rig.crash()
    for path in (rig.folder / "state").glob("outbox-*"):
        path.unlink()
    rig.start()
    rig.turns()
    rig.say(rig.announce(2))
    assert [join.round for join in rig.heard(Join)] == [1, 2]


class FakeConduct:
    """Rules that the test decides."""

    wait_s = None

    def __init__(self) -> None:
        self.may_send = self.may_train = True
        self.must_end = False
        self.n_sent = 0

    def turn(self, running: object) -> bool:
        return running is not None and self.must_end

    def may_do(self, action: object) -> bool:
        return self.may_send and (self.may_train or not isinstance(action, SendJoin))

    def sent(self, n_bytes: int) -> None:
        self.n_sent += n_bytes


@pytest.fixture
def conduct(rig: Rig) -> FakeConduct:
    made = FakeConduct()
    rig.agent._conduct = made  # type: ignore[assignment]
    return made


def test_a_device_that_may_not_train_joins_no_round_until_it_may(
    rig: Rig, conduct: FakeConduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.app._ASK_AGAIN_S", 0.0)
    conduct.may_train = False
    rig.say(rig.announce(1))
    assert rig.heard(Join) == []
    conduct.may_train = True
    rig.turns()
    assert [join.round for join in rig.heard(Join)] == [1]
    assert conduct.n_sent > 0


def test_a_trainer_that_a_rule_ended_starts_again_and_counts_as_no_failure(rig: Rig, conduct: FakeConduct) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    for _ in range(3):  # more often than a training may fail
        conduct.may_train, conduct.must_end = False, True
        rig.turns()
        n_jobs = len(rig.trainer.jobs)
        rig.turns()
        assert len(rig.trainer.jobs) == n_jobs
        conduct.may_train, conduct.must_end = True, False
        rig.turns()
        assert len(rig.trainer.jobs) == n_jobs + 1
    assert len({job.checkpoint for job in rig.trainer.jobs}) == 1
    rig.trainer.finish()
    rig.turns()
    assert len(rig.heard(Update)) == 1


def test_a_finished_update_waits_for_a_network_that_may_be_used(
    rig: Rig, conduct: FakeConduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.app._ASK_AGAIN_S", 0.0)
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    conduct.may_send = False
    rig.trainer.finish()
    rig.turns()
    assert rig.heard(Update) == []
    conduct.may_send = True
    rig.turns()
    assert len(rig.heard(Update)) == 1
