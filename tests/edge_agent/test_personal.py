"""The personal part: trained here by real trainer processes, kept only where it does better, never in the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.adapters.personal_part import personal_facts
from edge_agent.adapters.scores import ScoreState, save_scores
from edge_agent.continual_settings import ContinualSettings
from edge_agent.personal import PersonalTraining
from host.trainer_process import TrainerProcess
from tests.edge_agent.local.test_serving import Device
from tests.edge_agent.trainer.bag_of_words import knowing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.personal import Job, Result
    from edge_agent.ports import Running
    from protocol.errors import EdgefoldError

SETTINGS = ContinualSettings(personal=True, personal_min_examples=10, personal_epochs=20, personal_learning_rate=0.1)


class Rig:
    """A device that has labelled examples of its own, and what trains on them."""

    def __init__(self, here: Path) -> None:
        self.device, self.here = Device(here), here
        self.n_started = 0
        self.personal = PersonalTraining(
            here / "state",
            here / "store",
            SETTINGS,
            bundles={self.device.bundle: here / "bundle"},
            task=None,
            start=self._start,
        )

    def _start(self, job: Job, on_end: Callable[[Result | EdgefoldError], None]) -> Running:
        self.n_started += 1
        return TrainerProcess(job, on_end=on_end)  # type: ignore[arg-type]

    def keep(self, *, label_of_good: int) -> None:
        store = ExampleStore(self.here / "store")
        rows = [{"text": "good", "label": label_of_good}, {"text": "bad", "label": 1 - label_of_good}] * 10
        store.add(rows, source="x", exam_every=3)
        store.close()
        save_scores(self.here / "state", ScoreState(n_tested=20))

    def work(self) -> None:
        """Let it finish what it begins now."""
        self.personal._looked_s = float("-inf")
        self.personal.turn(is_idle=True)
        deadline = time.monotonic() + 150
        while self.personal._attempt is not None and time.monotonic() < deadline:
            self.personal.turn(is_idle=True)
            time.sleep(0.05)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.personal.close()
    made.device.folder.close()


def test_a_part_that_does_better_is_kept_and_served(rig: Rig) -> None:
    rig.device.bring(knowing(good=1.0, bad=-1.0), version=4)
    rig.keep(label_of_good=0)  # here, "good" is label 0, whatever the others say
    rig.work()
    facts = personal_facts(rig.here / "state", "t")
    assert facts is not None
    assert (facts.global_accuracy, facts.personal_accuracy, facts.version) == (0.0, 1.0, 4)
    assert rig.device.label() == 0
    served = rig.device.serving.served()
    assert served is not None
    assert served.is_personal
    n = rig.n_started
    rig.work()
    assert rig.n_started == n == 3  # nothing is new: a training and two exams, once


def test_a_part_that_does_no_better_is_not_kept(rig: Rig) -> None:
    rig.device.bring(knowing(good=1.0, bad=-1.0), version=4)
    rig.keep(label_of_good=1)
    rig.work()
    assert rig.n_started == 3
    assert personal_facts(rig.here / "state", "t") is None


def test_a_round_ends_it_and_it_begins_again_when_the_device_is_idle(rig: Rig) -> None:
    rig.device.bring(knowing(good=1.0, bad=-1.0), version=4)
    rig.keep(label_of_good=0)
    rig.personal._looked_s = float("-inf")
    rig.personal.turn(is_idle=True)
    assert rig.n_started == 1
    rig.personal.turn(is_idle=False)
    assert rig.personal._running is None
    rig.work()
    assert personal_facts(rig.here / "state", "t") is not None


def test_nothing_begins_before_there_is_something_new(rig: Rig) -> None:
    rig.work()
    rig.device.bring(knowing(good=1.0), version=1)
    rig.work()
    assert rig.n_started == 0
