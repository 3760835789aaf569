"""An asynchronous task over a fake wire: buffers, staleness, slots, pauses, rollbacks, kills; and what it is not."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.sql_reports import SqlReports
from aggregator.async_settings import AsyncSettings
from aggregator.buffer_report import buffer_facts, print_buffer_facts, where_buffered
from aggregator.dp_settings import DpSettings
from aggregator.privacy_settings import PrivacySettings
from aggregator.retention_settings import RetentionSettings
from aggregator.selection_settings import SelectionSettings
from aggregator.verification import verify_task
from protocol import codec
from protocol.errors import ConfigError, StorageError
from protocol.fields import FieldError
from protocol.messages import Announce, Decline, Receipt, Work
from tests.aggregator.test_app import facts_of, joined
from tests.aggregator.workbench import FLEET, N_PARAMS, TASK, Bench, Device, KilledError, task_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def asynchronous(concurrency: int = 4, **options: Any) -> dict[str, Any]:
    """Return the settings of an asynchronous task of two updates a buffer."""
    return {
        "mode": "async",
        "strategy": "fedbuff",
        "strategy_options": options,
        "asynchronous": AsyncSettings(concurrency=concurrency, slot_s=500.0),
        "rounds": 50,
    }


def send(device: Device, **facts: Any) -> None:
    device.update(**facts)
    device.bench.settle()


def fill(bench: Bench, *names: str) -> None:
    """Make one version with new devices."""
    for device in joined(bench, *names):
        send(device)


def buffered(bench: Bench, buffer: int | None = None) -> list[str]:
    return [one.update.device for one in bench.store.buffered(TASK, buffer or bench.round)]


def is_proven(bench: Bench) -> bool:
    return verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


def test_a_buffer_as_large_as_the_cohort_without_staleness_is_federated_averaging_bit_for_bit(
    make_bench: Callable[..., Bench],
) -> None:
    versions = {}
    for name, settings in {"sync": {"rounds": 3}, "async": {**asynchronous(), "rounds": 3}}.items():
        bench = make_bench(name, **settings)
        bench.play(bench.device("b"), bench.device("a"), rounds=3)
        assert bench.runner.is_finished
        assert is_proven(bench)
        versions[name] = [bench.adapter_bytes(version) for version in range(4)]
    assert versions["sync"] == versions["async"]


@pytest.mark.parametrize(("rule", "weight"), [("sqrt", 1 / math.sqrt(2)), ("linear", 1 / 2), ("constant", 1.0)])
def test_an_older_update_is_taken_and_weighs_less(
    rule: str, weight: float, make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(**asynchronous(staleness=rule))
    (slow,) = joined(bench, "slow")
    fill(bench, "b", "c")
    assert (bench.version, slow.last(Announce).round, slow.last(Announce).oldest_round) == (1, 2, 1)
    (fresh,) = joined(bench, "fresh")
    old = bench.runner.versions.adapter(1).astype(np.float64)
    total = np.zeros(N_PARAMS)
    for device, n_examples, factor in ((fresh, 10, 1.0), (slow, 30, weight)):
        delta = np.random.default_rng(n_examples).normal(0, 0.05, N_PARAMS).astype(np.float32)
        send(device, delta=delta, n_examples=n_examples)
        total += n_examples * factor * codec.decode(codec.encode(delta, bench.settings.plan.codec), n_values=N_PARAMS)
    assert bench.version == 2
    np.testing.assert_allclose(bench.runner.versions.adapter(2), old + total / 40, rtol=1e-6, atol=1e-7)
    assert [one["staleness"] for one in facts_of(caplog, "version-folded")] == [[0, 0], [0, 1]]
    assert buffered(bench, 2) == ["fresh", "slow"]
    assert is_proven(bench)


def test_what_is_too_stale_is_refused_and_devices_hear_it_before(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(max_staleness=1))
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    fill(bench, "c", "d")
    assert (slow.last(Announce).round, slow.last(Announce).oldest_round) == (3, 2)
    send(slow)
    assert slow.receipts() == [("refused", "stale")]
    assert buffered(bench) == []


def test_a_device_joins_again_after_each_update_and_may_be_twice_in_a_buffer(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(), cohort=3, min_cohort=3)
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b", "c")
    send(slow)
    slow.join()
    bench.settle()
    assert slow.last(Work).version == 1
    send(slow)
    assert buffered(bench) == ["slow", "slow"]
    fill(bench, "d")
    assert bench.version == 2
    assert is_proven(bench)


def test_a_device_works_once_on_one_version(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous())
    (a,) = joined(bench, "a")
    send(a)
    a.join()
    bench.settle()
    assert a.last(Decline).reason == "duplicate"
    again = a.make_update(seed=5)
    a.publish(again, "update")
    bench.settle()
    assert a.receipts()[-1] == ("refused", "duplicate")
    a.update()  # the first one once more: it lost its receipt
    bench.settle()
    assert a.receipts()[-1] == ("accepted", None)
    assert buffered(bench) == ["a"]


def test_work_waits_for_a_free_slot_and_comes_without_being_asked_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(concurrency=2), cohort=5, min_cohort=1)
    a, _b, c, d = joined(bench, "a", "b", "c", "d")
    assert (c.all(Work), c.all(Decline), d.all(Work)) == ([], [], [])
    send(a)
    assert (len(c.all(Work)), d.all(Work)) == (1, [])


def test_the_slot_of_a_device_that_vanished_goes_to_another_and_its_late_update_still_counts(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make_bench(**asynchronous(concurrency=1), deadline_s=10_000.0)
    gone, waits = joined(bench, "gone", "waits")
    bench.clock.now += 300  # a device that waits calls again
    waits.join()
    bench.settle()
    bench.clock.now += 201
    bench.settle()
    assert len(waits.all(Work)) == 1
    assert [one["device"] for one in facts_of(caplog, "slot-given-back")] == ["gone"]
    send(gone)
    assert gone.receipts() == [("accepted", None)]


def test_too_few_at_the_deadline_wait_on_in_the_next_buffer(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous())
    a, b = joined(bench, "a", "b")
    send(a)
    bench.clock.now += 101
    bench.settle()
    assert (bench.round, bench.version, buffered(bench), buffered(bench, 1)) == (2, 0, ["a"], [])
    assert (a.last(Announce).round, a.last(Announce).version, a.last(Announce).oldest_round) == (2, 0, 1)
    send(b)  # of the buffer before, on the same version
    assert (bench.version, buffered(bench, 2)) == (1, ["a", "b"])
    assert bench.store.summary(TASK, 2).n_updates == 2
    assert is_proven(bench)


def test_enough_at_the_deadline_make_a_version(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(), cohort=3, min_cohort=1)
    (a,) = joined(bench, "a")
    send(a)
    bench.clock.now += 101
    bench.settle()
    assert (bench.version, bench.round) == (1, 2)


def test_a_pause_waits_for_those_at_work_and_folds_them_together(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous())
    a, b, c = joined(bench, "a", "b", "c")
    assert bench.command("pause") == ("done", "")
    (late,) = joined(bench, "late")
    assert late.last(Decline).reason == "paused"
    for device in (a, b):
        send(device)
    assert bench.version == 0  # c is waited for, although the buffer is full
    send(c)
    assert (bench.version, buffered(bench), bench.round_state) == (1, ["a", "b", "c"], "folded")
    assert a.last(Announce).state == "paused"
    assert bench.command("resume") == ("done", "")
    assert (bench.round, bench.round_state, a.last(Announce).state) == (2, "open", "open")
    fill(bench, "d", "e")
    assert bench.version == 2


def test_a_rollback_drops_what_waits_and_wants_nothing_that_was_trained_before(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(**asynchronous())
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    (waits,) = joined(bench, "waits")
    send(waits)
    assert bench.command("rollback", 0) == ("done", "")
    assert [one.status for one in bench.store.updates(TASK, 2)] == ["discarded"]
    announce = slow.last(Announce)
    assert (announce.round, announce.version, announce.oldest_round) == (3, 2, 3)
    send(slow)
    assert slow.receipts() == [("refused", "stale")]
    fill(bench, "c", "d")
    assert (bench.version, bench.adapter_bytes(2)) == (3, bench.adapter_bytes(0))
    assert is_proven(bench)


def test_stopped_and_finished_tasks_take_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous() | {"rounds": 1})
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    assert bench.service.is_done
    assert slow.last(Announce).state == "finished"
    send(slow)
    assert slow.receipts() == [("refused", "late")]


def test_more_rounds_reopen_a_finished_task_and_another_mode_is_another_task(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous() | {"rounds": 1})
    fill(bench, "a", "b")
    bench.settings = task_settings(bench.bundle, **asynchronous() | {"rounds": 2})
    bench.restart()
    fill(bench, "c", "d")
    assert (bench.version, bench.runner.is_finished) == (2, True)
    bench.settings = task_settings(bench.bundle, **asynchronous() | {"rounds": 5})
    bench.restart()
    assert not bench.runner.is_finished
    bench.settings = task_settings(bench.bundle, **asynchronous() | {"rounds": 1})
    bench.restart()
    assert bench.runner.is_finished
    bench.settings = task_settings(bench.bundle, strategy="fedbuff", rounds=3)
    with pytest.raises(ConfigError, match=r"fedbuff\+async"):
        bench.restart()


def test_keys_of_older_work_last_as_long_as_it_is_welcome(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(max_staleness=1), privacy=PrivacySettings(rotate_key_rounds=1))
    bench.keep_folded_updates = False
    bench.restart()
    bench.settle()
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    assert slow.last(Work).task_key != bench.setup.keys.of_round(2).public_raw
    send(slow)
    assert slow.receipts() == [("accepted", None)]
    fill(bench, "c")
    assert bench.version == 2
    with pytest.raises(StorageError, match="destroyed"):
        bench.setup.keys.of_round(1)


def take_part(device: Device) -> None:
    """What a device does whenever it can: answer its work, else join the open buffer, once each."""
    announces = device.all(Announce)
    if not announces or announces[-1].state != "open":
        return
    answered = len(device.receipts())
    works = device.all(Work)
    if len({work.round for work in works}) > answered:
        device.update(work=works[-1])
    elif not works or works[-1].round < announces[-1].round:
        device.join(announces[-1].round)


def play(bench: Bench, devices: list[Device]) -> None:
    """Let the devices work at 1, 2 and 3 times the pace, so that updates are of every age, to the end."""
    for turn in range(200):
        if bench.runner.is_finished:
            return
        for pace, device in enumerate(devices, start=1):
            if turn % pace == 0:
                take_part(device)
                bench.settle()
    pytest.fail("the task did not finish")


def outcome(bench: Bench, devices: list[Device]) -> list[int]:
    """Return the staleness of every folded update, after checking that each is in one version, and nothing is lost."""
    assert is_proven(bench)
    folds = [one for one in bench.store.versions(TASK) if one.round is not None]
    within = [one for fold in folds for one in bench.store.buffered(TASK, fold.round or 0)]
    ids = [one.update.update_id for one in within]
    receipts = [receipt for device in devices for receipt in device.all(Receipt)]
    assert len(set(ids)) == len(ids) == 2 * len(folds) == 6
    assert {one.update_id for one in receipts if one.status == "accepted"} <= set(ids)
    assert {one.update.status for one in within} == {"folded"}
    return sorted(one.version for one in within)


def three_versions(make_bench: Callable[..., Bench], name: str) -> tuple[Bench, list[Device]]:
    bench = make_bench(name, **asynchronous() | {"rounds": 3})
    return bench, [bench.device(one) for one in "abc"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_effect_loses_nothing_and_counts_nothing_twice(
    when: str, make_bench: Callable[..., Bench]
) -> None:
    bench, devices = three_versions(make_bench, "undisturbed")
    bench.hooks.count()
    play(bench, devices)
    assert len(set(outcome(bench, devices))) > 1  # updates of different age were folded
    # Every seventh, others on the other side of the effect: seven has no part in the length of a cycle of effects.
    for at in range(3 if when == "after" else 0, bench.hooks.n_effects, 7):
        bench, devices = three_versions(make_bench, f"{when}-{at}")
        bench.hooks.kill(when, at)
        try:
            play(bench, devices)
        except KilledError:
            bench.hooks.spare()
            bench.restart()
        play(bench, devices)
        outcome(bench, devices)
        bench.stop()


def test_a_restart_keeps_who_works_and_what_waits(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(concurrency=2), cohort=3, min_cohort=3)
    a, b = joined(bench, "a", "b")
    send(a)
    bench.restart()
    bench.settle()
    (c, d) = joined(bench, "c", "d")
    assert (len(c.all(Work)), d.all(Work)) == (1, [])  # b holds the other slot
    for device in (b, c):
        send(device)
    assert bench.version == 1
    assert is_proven(bench)


def test_work_that_a_device_left_for_later_work_holds_no_slot_after_a_restart(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(**asynchronous(concurrency=2))
    a, b = joined(bench, "a", "b")
    send(b)
    fill(bench, "c")
    a.join()  # it lost the work of the first buffer
    bench.settle()
    send(a)
    assert bench.store.at_work(TASK, since=1) == ()
    bench.restart()
    bench.settle()
    assert [len(one.all(Work)) for one in joined(bench, "d", "e")] == [1, 1]


def test_show_says_what_waits_who_works_and_how_stale_it_is(
    make_bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make_bench(**asynchronous())
    (slow, _lost) = joined(bench, "slow", "lost")
    fill(bench, "a", "b")
    send(slow)
    facts = buffer_facts(bench.settings, bench.store, {0: "promoted", 1: "promoted"})
    assert facts == {
        "round": 2,
        "version": 1,
        "size": 2,
        "candidate": None,
        "staleness": [1],
        "concurrency": 4,
        "at_work": ["lost"],
        "oldest_round": 1,
    }
    print_buffer_facts(facts)
    assert "buffer 2 on version 1: 1 of 2 updates wait" in capsys.readouterr().out
    (update,) = bench.store.updates(TASK, 1)[-1:]
    assert where_buffered(TASK, bench.store)[update.update_id] == (2, 0)
    assert buffer_facts(task_settings(bench.bundle), bench.store, {0: "promoted"}) is None
    reports = SqlReports(bench.folders.database)
    assert [one.summary.n_updates for one in reports.rounds(TASK, limit=5)] == [1, 2]  # by buffer, newest first
    reports.close()


def test_retention_keeps_what_a_kept_buffer_or_work_that_is_still_out_needs(make_bench: Callable[..., Bench]) -> None:
    keep = RetentionSettings(versions=10, rounds=10, folded_rounds=2)
    bench = make_bench(**asynchronous(max_staleness=15), retention=keep, cohort=1, min_cohort=1)
    (slow,) = joined(bench, "slow")
    for number in range(14):
        fill(bench, f"d{number}")
    send(slow)
    assert slow.receipts() == [("accepted", None)]
    assert bench.store.buffered(TASK, 15)[0].version == 0
    bench.restart()  # which sweeps: the work is of round 1, its buffer is kept
    fill(bench, "last")
    mark = bench.retention_rows.mark(TASK)
    assert (mark.updates_since, mark.rounds_since) == (15, 0)  # two buffers are kept, and the round of the first's work
    found = verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, mark=mark)
    assert found.is_good
    assert found.versions[-1].version == 16
    for number in range(20):
        fill(bench, f"e{number}")
    assert bench.retention_rows.mark(TASK).rounds_since > 15
    assert bench.store.n_folded(TASK) == 36
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET, mark=bench.retention_rows.mark(TASK)).is_good


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "fedavg", "strategy_options": {}}, "fedbuff"),
        ({"privacy": PrivacySettings(level="secure-sum")}, "secure-sum"),
        ({"selection": SelectionSettings(gather_s=1.0)}, "gather_s"),
        ({"mode": "sync", "strategy": "fedavg", "strategy_options": {}}, "asynchronous"),
    ],
)
def test_what_does_not_go_with_the_mode_is_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=said):
        task_settings(tmp_path, **asynchronous() | {"cohort": 3, "min_cohort": 3} | changes)


def test_a_privacy_budget_does_not_go_with_the_mode(tmp_path: Path) -> None:
    privacy = PrivacySettings(dp=DpSettings(mode="central", clip=1.0, epsilon=8.0, delta=1e-5))
    with pytest.raises(FieldError, match=r"privacy\.dp"):
        task_settings(tmp_path, **asynchronous(), privacy=privacy)
