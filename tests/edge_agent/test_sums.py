"""On what terms a device takes part, and what it keeps of a sum."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.noise_record import NoiseRecord
from edge_agent.adapters.sum_folder import StepRecord, SumFolder
from edge_agent.core.session import Announced, Receipted, Resume, SessionState, step
from edge_agent.core.summing import FOLLOWS, Followed, SendStep, StepFailed, StepTaken, TakeStep, TrainedForSum
from edge_agent.privacy_settings import PrivacySettings
from edge_agent.sums import DeviceSums, Peers
from host.durable import write_bytes
from protocol.errors import EngineError, StorageError
from protocol.fields import FieldError
from protocol.jobs import DELTA_FILE, REPLY_FILE, STATE_FILE, STATEMENT_FILE
from protocol.messages import Work
from protocol.plan import Codec, Optimizer, Plan
from protocol.sealing import TaskKey
from protocol.secure_sum.keys import statement
from protocol.secure_sum.messages import MaskedInput, pack
from protocol.secure_sum.noise_claim import epsilon_at
from protocol.signing import SigningKey
from protocol.sum_round import SumTerms

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


NOISY = dataclasses.replace(TERMS, weight_cap=1, noise_levels=10**6, noise_multiplier=2.0)


def test_a_device_counts_what_it_claims_itself_and_declines_beyond(tmp_path: Path) -> None:
    limit = epsilon_at(2 / 2.0**2, delta=1e-5) + 0.01  # of two rounds
    own = {"max_epsilon": limit, "delta": 1e-5}
    record = NoiseRecord(tmp_path)
    assert sums(tmp_path, **own).why_not(NOISY) is None
    record.charge("t", 1, noise_multiplier=2.0)
    record.charge("t", 1, noise_multiplier=2.0)  # the step again, after a crash
    assert record.precision() == pytest.approx(1 / 4)
    assert sums(tmp_path, **own).why_not(NOISY) is None
    record.charge("another", 1, noise_multiplier=2.0)  # the same examples, under another task's name
    assert "privacy.max_epsilon is" in str(sums(tmp_path, **own).why_not(NOISY))
    assert sums(tmp_path).why_not(NOISY) is None


def test_with_a_bound_nothing_goes_out_without_noise(tmp_path: Path) -> None:
    own = {"max_epsilon": 8.0, "delta": 1e-5}
    assert "no noise" in str(sums(tmp_path, **own).why_not(TERMS))
    assert "no noise" in str(sums(tmp_path, **own).why_not(None))
    with pytest.raises(FieldError, match="both or neither"):
        PrivacySettings(max_epsilon=8.0)


def test_a_record_that_cannot_be_read_stops_the_device(tmp_path: Path) -> None:
    NoiseRecord(tmp_path).charge("t", 1, noise_multiplier=1.0)
    (tmp_path / "noise-spent.cbor").write_bytes(b"\xff")
    with pytest.raises(StorageError, match="spent twice"):
        sums(tmp_path).why_not(NOISY)


def test_the_charge_is_on_the_disk_before_the_noisy_vector_can_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, scratch = sums(tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    write_bytes(scratch / DELTA_FILE, b"\0" * 8)
    task_key = TaskKey.generate().public_raw
    plan = Plan(optimizer=Optimizer(), codec=Codec())
    facts = {"task": "t", "round": 1, "version": 0, "bundle_id": "a" * 64, "task_key": task_key, "seconds_left": 1.0}
    work = Work(**facts, plan=plan, adapter=b"a", secure_sum=NOISY)  # type: ignore[arg-type]
    own.begin(work, scratch, n_examples=9)
    assert own.folder.weight() == 1
    for name, data in ((STATE_FILE, b"s"), (STATEMENT_FILE, STATEMENT), (REPLY_FILE, REPLY)):
        write_bytes(scratch / name, data)
    spent: list[float] = []

    def save(_folder: SumFolder, _record: StepRecord) -> None:
        spent.append(NoiseRecord(tmp_path).precision())
        raise StorageError("a crash")

    monkeypatch.setattr(SumFolder, "save_step", save)
    for _ in range(2):
        with pytest.raises(StorageError, match="a crash"):
            own.finish(work, "inputs", scratch)
    assert spent == [pytest.approx(1 / 4)] * 2


STATEMENT = statement("masked input", b"", 0, b"")
REPLY = pack(MaskedInput(values=b"v", signature=bytes(64)))
