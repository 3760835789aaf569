"""An agent over a fake wire, with a fake trainer, rules and clock, and the service's end of the wire."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.app import Agent
from edge_agent.config import AgentConfig, BrokerSettings, DataSettings, DeviceSettings, TrainerSettings
from edge_agent.core.session import SendJoin
from edge_agent.lessons import Lessons
from edge_agent.predict_settings import PredictSettings
from edge_agent.privacy_settings import PrivacySettings
from host.memory_link import MemoryBroker
from protocol import codec, topics
from protocol.errors import EngineError
from protocol.jobs import RESIDUAL_FILE, UPDATE_FILE, TrainJob, TrainResult
from protocol.messages import Announce, Body, Receipt, Update, Work, unpack_envelope
from protocol.plan import Codec, Optimizer, Plan
from protocol.sealing import TaskKey
from protocol.signing import SERVICE, SigningKey, open_envelope, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.sums import DeviceSums
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


class Rig:
    """One agent, one fake trainer, and the service's end of the wire."""

    privacy, predict = PrivacySettings(), PredictSettings()
    broker_settings = BrokerSettings(url="mqtt://127.0.0.1")
    conduct: FakeConduct | None = None
    fetch: FakeFetch | None = None
    ahead_s = 0.0  # of the agent's clock

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
            predict=self.predict,
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
            sums=self.sums(),
            conduct=self.conduct,  # type: ignore[arg-type]
            fetch=self.fetch,  # type: ignore[arg-type]
            clock=lambda: time.monotonic() + self.ahead_s,
        )

    def crash(self) -> None:
        """Lose the process: nothing of its memory survives, its folder does."""
        self.device_folder.close()
        self.link.close()

    def sums(self) -> DeviceSums | None:
        """Return the parts for secure sums; this device has none."""
        return None

    def restart(self) -> None:
        """Crash and come back; what a test sets in between is what the agent then has."""
        self.crash()
        self.start()

    def later(self, seconds: float) -> None:
        """Let time pass for the agent."""
        self.ahead_s += seconds
        self.turns()

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


def to_sending(rig: Rig, round_: int = 1) -> Update:
    rig.say(rig.announce(round_))
    rig.say(rig.work(round_))
    rig.trainer.finish()
    rig.turns()
    return rig.heard(Update)[-1]
