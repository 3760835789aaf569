"""The rules of one virtual device, without a wire."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deploy.simulate.deltas import DeltaPool
from deploy.simulate.profile import Group, Profile
from deploy.simulate.virtual_device import Surroundings, VirtualDevice
from protocol.messages import Announce, Decline, Join, Receipt, Update, Work
from protocol.plan import Plan
from protocol.sealing import TaskKey

if TYPE_CHECKING:
    from deploy.simulate.journal import Entry

BUNDLE = "ab" * 32
KEY = TaskKey.generate()


def announce(round_: int) -> Announce:
    return Announce(task="t", state="open", round=round_, version=round_ - 1, bundle_id=BUNDLE)


def work(round_: int) -> Work:
    return Work(
        task="t",
        round=round_,
        version=round_ - 1,
        bundle_id=BUNDLE,
        plan=Plan(),
        adapter=b"x",
        task_key=KEY.public_raw,
        seconds_left=10.0,
    )


def device(journal: list[Entry], **group: float) -> VirtualDevice:
    pool = DeltaPool(Plan(), n_params=64, seed=0)
    around = Surroundings(fleet="f", pools=lambda _: pool, write=journal.append, n_params={"t": 64})
    return VirtualDevice("d", Group(name="g", **group), around, seed=1)


def test_it_joins_trains_sends_again_and_ends_with_the_receipt() -> None:
    journal: list[Entry] = []
    one = device(journal, train_s=2.0)
    one.hear(announce(1), 0.0)
    assert one.due_s == 0.0
    assert one.wake(0.0) == Join(task="t", round=1, bundle_id=BUNDLE)
    one.hear(work(1), 1.0)
    assert (one.due_s, one.is_busy) == (3.0, True)
    update = one.wake(3.0)
    assert isinstance(update, Update)
    assert one.due_s is not None
    assert one.wake(one.due_s) is update
    one.hear(announce(2), 9.0)  # its update comes first
    assert one.is_busy
    one.hear(Receipt(task="t", round=1, update_id=update.update_id, status="accepted"), 10.0)
    assert not one.is_busy
    assert one.wake(10.0) == Join(task="t", round=2, bundle_id=BUNDLE)
    assert [entry.act for entry in journal] == ["sent", "accepted"]


def test_it_rests_when_declined_when_unavailable_and_when_it_drops_out() -> None:
    declined, away, dropping = device([]), device([], available=0.0), device([], drop_out=1.0)
    for one in (declined, away, dropping):
        one.hear(announce(1), 0.0)
    assert away.due_s is None
    declined.hear(Decline(task="t", round=1, reason="not-selected"), 1.0)
    dropping.hear(work(1), 1.0)
    for one in (declined, dropping):
        one.hear(announce(1), 2.0)
        assert (one.due_s, one.is_busy) == (None, False)


def test_a_later_round_ends_an_earlier_training() -> None:
    one = device([], train_s=5.0)
    one.hear(announce(1), 0.0)
    one.hear(work(1), 0.0)
    one.hear(announce(2), 1.0)
    assert not one.is_busy
    assert one.wake(1.0) == Join(task="t", round=2, bundle_id=BUNDLE)


def test_work_of_an_asynchronous_task_goes_on_while_it_is_welcome() -> None:
    one = device([], train_s=5.0)
    one.hear(announce(1), 0.0)
    one.hear(work(1), 0.0)
    one.hear(replace(announce(3), oldest_round=1), 1.0)
    assert (one.is_busy, one.due_s) == (True, 5.0)
    update = one.wake(5.0)
    assert isinstance(update, Update)
    one.hear(Receipt(task="t", round=1, update_id=update.update_id, status="accepted"), 6.0)
    assert one.wake(6.0) == Join(task="t", round=3, bundle_id=BUNDLE)
    one.hear(work(3), 6.0)
    one.hear(replace(announce(9), oldest_round=4), 7.0)
    assert not one.is_busy


def test_groups_have_their_shares_and_growth_moves_nobody() -> None:
    profile = Profile(group=(Group(name="a", share=3.0), Group(name="b", share=1.0)))
    names = [profile.group_of(i).name for i in range(1000)]
    assert 740 <= names.count("a") <= 760
    assert [profile.group_of(i).name for i in range(10)] == names[:10]
