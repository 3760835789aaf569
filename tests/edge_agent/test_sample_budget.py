"""What DP-SGD costs a device's examples is counted before it happens, once, for all tasks; its owner's bound holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters import sample_record
from edge_agent.adapters.refusal import read_refusal
from edge_agent.adapters.sample_record import SampleRecord
from edge_agent.privacy_settings import PrivacySettings
from edge_agent.status import read_status
from host.durable import write_bytes
from protocol.errors import ConfigError, StorageError
from protocol.fields import FieldError
from protocol.jobs import SampleCharge
from protocol.messages import Join
from protocol.plan import Plan, SampleDp
from protocol.rdp import epsilon_of
from tests.edge_agent.rig import Rig
from tests.edge_agent.test_cli import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DELTA = 1e-5
DP_PLAN = Plan(epochs=2, batch_size=4, dp=SampleDp(clip=1.0, noise_multiplier=1.5))
N_EXAMPLES = 100
ONE = epsilon_of(sampling_rate=0.04, noise_multiplier=1.5, n_steps=50, delta=DELTA)
TWO = epsilon_of(sampling_rate=0.04, noise_multiplier=1.5, n_steps=100, delta=DELTA)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n" * N_EXAMPLES)
    return path


def charge(data: Path, number: int, *, task: str = "t", most: float | None = None, plan: Plan = DP_PLAN) -> None:
    terms = SampleCharge(
        folder=str(data.parent),
        task=task,
        training_id=f"{number:032x}",
        max_epsilon=most,
        delta=None if most is None else DELTA,
    )
    SampleRecord(data.parent).charge(terms, plan, n_examples=N_EXAMPLES, data=data)


def spent(data: Path) -> float:
    return SampleRecord(data.parent).epsilon(delta=DELTA)


def test_trainings_of_all_tasks_add_up_to_what_the_accountant_says(data: Path) -> None:
    assert spent(data) == 0
    charge(data, 1)
    assert spent(data) == pytest.approx(ONE)
    charge(data, 2, task="other")
    assert spent(data) == pytest.approx(TWO)
    assert SampleRecord(data.parent).n_steps() == 100


def test_a_training_that_begins_again_after_a_crash_is_charged_once(data: Path) -> None:
    for _ in range(3):
        charge(data, 1)
    assert spent(data) == pytest.approx(ONE)


def test_a_training_of_another_plan_under_the_same_name_is_charged(data: Path) -> None:
    charge(data, 1)
    charge(data, 1, plan=replace(DP_PLAN, epochs=3))
    assert spent(data) > TWO


def test_what_would_pass_the_owners_bound_is_refused_and_costs_nothing(data: Path) -> None:
    bound = (ONE + TWO) / 2
    charge(data, 1, most=bound)
    with pytest.raises(ConfigError, match="max_sample_epsilon"):
        charge(data, 2, most=bound)
    assert spent(data) == pytest.approx(ONE)
    charge(data, 1, most=bound)  # what was paid may begin again


def test_a_refused_training_cannot_come_back_under_its_name(data: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="max_sample_epsilon"):
            charge(data, 1, most=ONE / 2)
    assert spent(data) == 0


def test_orders_of_a_later_version_were_not_counted_and_are_not_used(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = sample_record.rdp_of_steps
    few = {2: 0.0, 4: 0.0, 8: 0.0}
    monkeypatch.setattr(
        sample_record, "rdp_of_steps", lambda **facts: {k: v for k, v in now(**facts).items() if k in few}
    )
    charge(data, 1)
    coarse = spent(data)
    monkeypatch.setattr(sample_record, "rdp_of_steps", now)
    charge(data, 2)
    assert spent(data) > coarse > ONE


def test_a_damaged_record_is_an_error_and_never_empty(data: Path) -> None:
    charge(data, 1)
    path = data.parent / "sample-spent.cbor"
    good = path.read_bytes()
    for bad in (b"", b"\xff", good[:-1], good[:200]):
        write_bytes(path, bad)
        with pytest.raises(StorageError, match="spent twice"):
            spent(data)


def test_half_a_bound_is_refused() -> None:
    with pytest.raises(FieldError, match="sample_delta"):
        PrivacySettings(max_sample_epsilon=1.0)


class Bounded(Rig):
    """A rig whose device bounds what its examples pay."""

    privacy = PrivacySettings(max_sample_epsilon=(ONE + TWO) / 2, sample_delta=DELTA)


@pytest.fixture
def rig(data: Path) -> Iterator[Bounded]:
    one = Bounded(data.parent)
    yield one
    one.device_folder.close()


def begin(rig: Bounded, round_: int, plan: Plan = DP_PLAN) -> None:
    rig.say(rig.announce(round_))
    rig.say(replace(rig.work(round_), plan=plan))


def trainer_counts(rig: Bounded) -> None:
    """Do what the trainer does before its first step."""
    job = rig.trainer.jobs[-1]
    assert job.sample_charge is not None
    record = SampleRecord(rig.folder / "state")
    record.charge(job.sample_charge, job.plan, n_examples=N_EXAMPLES, data=rig.folder / "x.jsonl")


def test_a_device_with_a_bound_trains_nothing_without_noise(rig: Bounded) -> None:
    begin(rig, 1, Plan())
    assert rig.trainer.jobs == []
    refusal = read_refusal(rig.folder / "state")
    assert refusal is not None
    assert "plan.dp" in refusal.why


def test_a_round_beyond_the_bound_is_declined_and_the_status_says_why(rig: Bounded) -> None:
    begin(rig, 1)
    trainer_counts(rig)
    rig.trainer.finish()
    rig.turns()
    begin(rig, 2)  # the update of round 1 waits for its receipt: nothing is heard of round 2 yet
    assert len(rig.trainer.jobs) == 1
    rig.crash()
    (rig.folder / "state" / "state.cbor").unlink()  # somebody makes the device begin anew: the account does not
    rig.start()
    begin(rig, 3)
    assert [one.round for one in rig.heard(Join)][-1] == 3
    assert rig.trainer.jobs == []
    (rig.folder / "agent.toml").write_text(
        GOOD.format(service_key="0" * 64, url="mqtt://127.0.0.1")
        + f"\n[privacy]\nmax_sample_epsilon = {Bounded.privacy.max_sample_epsilon}\nsample_delta = {DELTA}\n"
    )
    found = read_status(rig.folder / "agent.toml")
    assert found.last_refusal is not None
    assert "privacy.max_sample_epsilon" in found.last_refusal.why
    assert f"50 noisy steps, epsilon {ONE:.4g}" in str(found.examples_paid)
    assert "privacy.max_sample_epsilon" in found.why


def test_a_restart_trains_the_same_work_under_the_same_name_and_new_work_gets_another(rig: Bounded) -> None:
    begin(rig, 1)
    first = rig.trainer.jobs[-1].sample_charge
    rig.crash()
    rig.start()
    rig.turns()
    again = rig.trainer.jobs[-1].sample_charge
    assert first is not None
    assert first == again
    rig.say(rig.announce(2))
    rig.say(replace(rig.work(2), plan=DP_PLAN))
    later = rig.trainer.jobs[-1].sample_charge
    assert later is not None
    assert later.training_id != first.training_id


class Trusting(Bounded):
    """Its owner believes the service's bundles."""

    privacy = PrivacySettings(max_sample_epsilon=(ONE + TWO) / 2, sample_delta=DELTA, trust_per_example=True)


class Unbounded(Bounded):
    """Its owner asked for nothing; that there is noise is the service's wish."""

    privacy = PrivacySettings()


@pytest.mark.parametrize(("kind", "is_strict"), [(Bounded, True), (Trusting, False), (Unbounded, False)])
def test_a_device_with_a_bound_believes_no_graph_that_takes_many_unless_its_owner_says_so(
    kind: type[Bounded], data: Path, *, is_strict: bool
) -> None:
    one = kind(data.parent)
    try:
        begin(one, 1)
        assert one.trainer.jobs[-1].one_by_one is is_strict
    finally:
        one.device_folder.close()
