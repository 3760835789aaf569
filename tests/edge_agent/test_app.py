"""Drives a whole agent over a fake wire, with a fake trainer, against the service's side of the protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.device_folder import read_receipt
from protocol import codec, topics
from protocol.errors import EngineError
from protocol.messages import (
    Announce,
    Decline,
    Join,
    Update,
    unpack_content,
)
from protocol.sealing import binding
from protocol.signing import SigningKey
from tests.edge_agent.rig import BUNDLE, DEVICE, FLEET, PLAN, TASK, FakeConduct, FakeFetch, N, Rig, to_sending

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.device_folder.close()


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
    rig.restart()
    rig.turns()
    assert len(rig.trainer.jobs) == 1
    rig.trainer.finish()
    rig.turns()
    assert len(rig.heard(Update)) == 1
    assert len(rig.heard(Join)) == 1


def test_a_restart_with_a_full_outbox_sends_the_very_same_update(rig: Rig) -> None:
    update = to_sending(rig)
    rig.restart()
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
    rig.fetch = fetch
    rig.restart()
    rig.say(Announce(task=TASK, state="open", round=1, version=0, bundle_id=new))
    assert fetch.needed == {new}
    assert rig.heard(Join) == []
    fetch.came[new] = rig.folder / "new"
    rig.turns()
    assert [join.bundle_id for join in rig.heard(Join)] == [new]


def test_a_bundle_that_went_since_the_work_came_gives_up_the_round_only(rig: Rig) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.restart()
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


@pytest.fixture
def conduct(rig: Rig) -> FakeConduct:
    rig.conduct = made = FakeConduct()
    rig.restart()
    return made


def test_a_device_that_may_not_train_joins_no_round_until_it_may(rig: Rig, conduct: FakeConduct) -> None:
    conduct.may_train = False
    rig.say(rig.announce(1))
    assert rig.heard(Join) == []
    conduct.may_train = True
    rig.later(30.0)
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


def test_a_finished_update_waits_for_a_network_that_may_be_used(rig: Rig, conduct: FakeConduct) -> None:
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    conduct.may_send = False
    rig.trainer.finish()
    rig.turns()
    assert rig.heard(Update) == []
    conduct.may_send = True
    rig.later(30.0)
    assert len(rig.heard(Update)) == 1
