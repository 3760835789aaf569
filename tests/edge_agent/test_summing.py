"""A whole agent on its way through a secure sum, with steps that a fake trainer takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.sum_folder import SumFolder
from edge_agent.privacy_settings import PrivacySettings
from edge_agent.sums import DeviceSums, Peers
from protocol.errors import EngineError
from protocol.jobs import (
    DELTA_FILE,
    DIRECTORY_FILE,
    REPLY_FILE,
    STATE_FILE,
    STATEMENT_FILE,
    SumStepJob,
    SumStepResult,
)
from protocol.messages import Receipt, Update
from protocol.secure_sum.keys import statement
from protocol.secure_sum.messages import Advert, pack
from protocol.sum_round import SumNext, SumStep
from tests.edge_agent.rig import DEVICE, FLEET, TASK, N, Rig
from tests.protocol.samples import SUM_TERMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from protocol.errors import EdgefoldError
    from protocol.messages import Work

REPLY = pack(Advert(mask_key=bytes(32), seal_key=bytes(32), signature=bytes(64)))
FILES = {STATE_FILE: b"s", REPLY_FILE: REPLY, STATEMENT_FILE: statement("advert"), DIRECTORY_FILE: b"d"}


class Steps:
    """Takes a step when the test says so."""

    pid = 1

    def __init__(self) -> None:
        self.jobs: list[SumStepJob] = []
        self.n_closed = 0
        self._on_end: Callable[[SumStepResult | EdgefoldError], None] = lambda _: None

    def __call__(self, job: SumStepJob, *, on_end: Callable[[SumStepResult | EdgefoldError], None]) -> Steps:
        self.jobs.append(job)
        self._on_end = on_end
        return self

    def finish(self) -> None:
        for name, data in FILES.items():
            (Path(self.jobs[-1].out) / name).write_bytes(data)
        self._on_end(SumStepResult(step=self.jobs[-1].step, wall_s=0.1, peak_memory_bytes=1))

    def fail(self) -> None:
        self._on_end(EngineError("the roster is not believed"))

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.n_closed += 1


class Summed(Rig):
    """A device with the parts for sums."""

    def sums(self) -> DeviceSums:
        self.steps = Steps()
        return DeviceSums(
            PrivacySettings(give_up_s=100.0),
            fleet=FLEET,
            device=DEVICE,
            key=self.device_key,
            folder=SumFolder(self.folder / "state"),
            peers=Peers(registry=self.folder / "peers.toml"),
            start=self.steps,
        )

    def work(self, round_: int) -> Work:
        return replace(super().work(round_), secure_sum=SUM_TERMS)

    def to_first_step(self, round_: int = 1) -> None:
        """Play a round until its first step is being taken."""
        self.say(self.announce(round_))
        self.say(self.work(round_))
        (Path(self.trainer.jobs[-1].out) / DELTA_FILE).write_bytes(bytes(4 * N))
        self.trainer.finish()
        self.turns()

    def take_step(self) -> SumStep:
        """Let the step be taken; return its message."""
        self.steps.finish()
        self.turns()
        return self.heard(SumStep)[-1]

    def accept(self, said: SumStep) -> None:
        self.say(Receipt(task=TASK, round=said.round, update_id=said.update_id, status="accepted"))

    @property
    def is_wiped(self) -> bool:
        return not (self.folder / "state" / "sum").exists()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Summed]:
    one = Summed(tmp_path)
    yield one
    one.device_folder.close()


ROSTER = SumNext(task=TASK, round=1, step="roster", message=b"r")


def test_a_training_leads_to_the_first_step_and_the_roster_to_the_second(rig: Summed) -> None:
    rig.to_first_step()
    assert rig.heard(Update) == []
    first = rig.take_step()
    assert (first.step, first.round) == ("adverts", 1)
    rig.accept(first)
    rig.say(ROSTER)
    kept = Path(rig.steps.jobs[-1].message or "").read_bytes()
    rig.say(replace(ROSTER, message=b"another"))  # the first answer counts
    assert Path(rig.steps.jobs[-1].message or "").read_bytes() == kept
    assert [job.step for job in rig.steps.jobs] == ["adverts", "shares"]
    assert rig.take_step().step == "shares"
    assert rig.steps.n_closed == 2


def test_a_device_without_the_parts_declines_such_work(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.say(rig.announce(1))
    rig.say(replace(rig.work(1), secure_sum=SUM_TERMS))
    assert rig.trainer.jobs == []
    assert rig.agent.state.phase == "idle"
    rig.device_folder.close()


def test_a_step_that_was_taken_before_a_crash_is_sent_and_not_taken_again(rig: Summed) -> None:
    rig.to_first_step()
    rig.steps.finish()
    state = rig.agent.state
    rig.turns()
    sent = rig.heard(SumStep)
    rig.device_folder.save_state(state)  # the crash came between the step's file and the session's
    rig.restart()
    rig.turns()
    assert rig.steps.jobs == []
    assert rig.heard(SumStep) == [*sent, sent[-1]]


def test_a_step_that_fails_ends_the_sum_for_this_device_and_wipes_it(rig: Summed) -> None:
    rig.to_first_step()
    assert not rig.is_wiped
    rig.steps.fail()
    rig.turns()
    assert rig.agent.state.phase == "idle"
    assert rig.is_wiped
    rig.to_first_step(2)
    assert rig.take_step().round == 2


def test_a_sum_that_nobody_goes_on_with_is_given_up_however_long_its_step_took(rig: Summed) -> None:
    rig.to_first_step()
    rig.later(90.0)
    rig.accept(rig.take_step())
    rig.later(99.0)
    assert rig.agent.state.phase == "waiting"
    rig.later(2.0)
    assert rig.agent.state.phase == "idle"
    assert rig.is_wiped


def test_a_later_round_ends_the_step_that_runs_and_what_it_ends_with_means_nothing(rig: Summed) -> None:
    rig.to_first_step()
    rig.say(rig.announce(2))
    assert rig.steps.n_closed == 1
    assert rig.is_wiped
    rig.steps.fail()
    rig.turns()
    assert rig.heard(SumStep) == []
    assert rig.agent.state.phase == "joining"
