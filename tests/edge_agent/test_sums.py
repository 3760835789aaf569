"""On what terms a device takes part, and what it keeps of a sum."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.sum_folder import StepRecord, SumFolder
from edge_agent.core.session import Announced, Receipted, Resume, SessionState, step
from edge_agent.core.summing import FOLLOWS, Followed, SendStep, StepFailed, StepTaken, TakeStep, TrainedForSum
from edge_agent.privacy_settings import PrivacySettings
from edge_agent.sums import DeviceSums, Peers
from protocol.errors import EngineError
from protocol.messages import SumTerms
from protocol.signing import SigningKey

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.core.session import Event
    from edge_agent.ports import Running
    from protocol.jobs import SumStepJob

TERMS = SumTerms(
    clip=1.0,
    weight_cap=10,
    input_bits=16,
    min_cohort=5,
    max_cohort=10,
    corrupt_fraction=0.05,
    dropout_fraction=0.1,
    server="curious",
)
ID = bytes(16)


def no_trainer(job: SumStepJob, *, on_end: object) -> Running:
    raise EngineError(f"{job} {on_end}")


def sums(folder: Path, *, peers: Peers | None = None, **terms: object) -> DeviceSums:
    return DeviceSums(
        PrivacySettings(**terms),  # type: ignore[arg-type]
        fleet="f",
        device="pi-1",
        key=SigningKey(bytes(32)),
        folder=SumFolder(folder),
        peers=peers or Peers(registry=folder / "peers.toml"),
        start=no_trainer,
    )


def test_a_device_that_insists_on_sums_refuses_to_send_a_sealed_update(tmp_path: Path) -> None:
    assert "privacy.require" in str(sums(tmp_path, require="secure-sum").why_not(None))
    assert sums(tmp_path).why_not(None) is None
    assert sums(tmp_path, require="secure-sum").why_not(TERMS) is None


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"min_cohort": 6}, "min_cohort"),
        ({"min_corrupt_fraction": 0.2}, "corrupt_fraction"),
        ({"max_dropout_fraction": 0.05}, "dropout_fraction"),
        ({"server": "lying"}, "curious server"),
    ],
)
def test_terms_below_the_devices_own_are_refused(tmp_path: Path, own: dict[str, object], word: str) -> None:
    assert word in str(sums(tmp_path, **own).why_not(TERMS))


def test_a_device_that_knows_nobodys_keys_takes_part_in_no_sum(tmp_path: Path) -> None:
    assert "privacy.directory" in str(sums(tmp_path, peers=Peers()).why_not(TERMS))


def record() -> StepRecord:
    return StepRecord(task="t", round=1, step="adverts", update_id=ID, state=b"secret", directory=b"", envelope=b"e")


def test_a_step_is_kept_whole_and_everything_goes_when_the_sum_is_over(tmp_path: Path) -> None:
    folder = SumFolder(tmp_path)
    folder.begin(b"\0" * 8, 3)
    assert folder.step() is None
    folder.save_step(record())
    again = SumFolder(tmp_path)
    assert again.step() == record()
    assert again.weight() == 3
    assert "secret" not in repr(record())
    assert (tmp_path / "sum" / "step.cbor").stat().st_mode & 0o777 == 0o600
    again.wipe()
    assert not (tmp_path / "sum").exists()


def play(state: SessionState, *events: Event) -> tuple[SessionState, list[object]]:
    done: list[object] = []
    for event in events:
        state, actions = step(state, event)
        done += actions
    return state, done


def training() -> SessionState:
    state, _ = step(SessionState(), Announced(task="t", round=1, bundle_id="a" * 64, is_open=True))
    return dataclasses.replace(state, phase="training")


def test_the_five_steps_follow_each_other_and_end_idle() -> None:
    state, _ = play(training(), TrainedForSum())
    for name, (answer, following) in FOLLOWS.items():
        assert state.sum_step == name
        state, actions = play(state, StepTaken(update_id=ID), Receipted(update_id=ID, is_accepted=True))
        assert actions == [SendStep(ID), SendStep(ID, is_receipted=True)]
        state, actions = play(state, Followed(task="t", round=1, step=answer))
        assert actions == [TakeStep(following)]
    state, _ = play(state, StepTaken(update_id=ID), Receipted(update_id=ID, is_accepted=True))
    assert (state.phase, state.done) == ("idle", {"t": 1})


def test_a_second_answer_or_one_of_another_step_is_not_heard() -> None:
    state, _ = play(training(), TrainedForSum(), StepTaken(update_id=ID))
    assert step(state, Followed(task="t", round=1, step="delivery")) == (state, ())
    assert step(state, Followed(task="t", round=2, step="roster")) == (state, ())
    summing, _ = step(state, Followed(task="t", round=1, step="roster"))
    assert step(summing, Followed(task="t", round=1, step="roster")) == (summing, ())


def test_a_restart_takes_the_step_or_sends_the_message_again() -> None:
    summing, _ = play(training(), TrainedForSum())
    assert step(summing, Resume()) == (summing, (TakeStep("adverts"),))
    waiting, _ = step(summing, StepTaken(update_id=ID))
    assert step(waiting, Resume()) == (waiting, (SendStep(ID),))


@pytest.mark.parametrize("event", [StepFailed(), Announced(task="t", round=2, bundle_id="a" * 64, is_open=False)])
def test_a_failed_step_or_a_later_round_ends_the_sum(event: Event) -> None:
    summing, _ = play(training(), TrainedForSum())
    after, _ = step(summing, event)
    assert (after.phase, after.sum_step) == ("idle", None)
