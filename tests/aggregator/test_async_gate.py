"""A gate on an asynchronous task: what is measured before devices have it, what goes on meanwhile, and kills."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.buffer_report import buffer_facts, print_buffer_facts
from aggregator.core.gates import statuses as statuses_of
from aggregator.gate_settings import GateSettings
from protocol.messages import Announce, Decline, Work
from tests.aggregator.test_app import joined
from tests.aggregator.test_async_runner import asynchronous, buffered, fill, is_proven, play, send
from tests.aggregator.test_task_control import Scripted, gated, statuses
from tests.aggregator.workbench import TASK, Bench, Device, KilledError, evaluation_sets, task_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def guarded(make_bench: Callable[..., Bench], folder: Path, accuracy: dict[int, int], **settings: Any) -> Bench:
    """Return an asynchronous task with a gate, whose versions have these accuracies in percent."""
    return gated(make_bench, folder, accuracy, **asynchronous() | settings)


def measure(bench: Bench, version: int, n_correct: int) -> None:
    """Let an evaluation that is under way end."""
    bench.evaluations._evaluator.end(version, n_correct)  # type: ignore[attr-defined]
    for _ in range(3):
        bench.settle()


def heard(device: Device) -> tuple[int, int]:
    """Return round and version of the last announcement."""
    last = device.last(Announce)
    return last.round, last.version


def test_a_version_is_measured_before_devices_have_it_while_the_next_buffer_takes_updates(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50})
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    assert (bench.version, heard(slow)) == (1, (2, 0))
    (fresh,) = joined(bench, "fresh")
    assert fresh.last(Work).version == 0
    for device in (slow, fresh):
        send(device)
    assert (buffered(bench), bench.version) == (["fresh", "slow"], 1)  # full, and not folded
    measure(bench, 1, 49)
    assert statuses(bench) == {1: "promoted"}
    assert bench.version == 2
    rounds = [(one.round, one.version, one.state) for one in bench.store.rounds(TASK)]
    assert rounds == [(1, 0, "folded"), (2, 0, "abandoned"), (3, 1, "folded"), (4, 1, "open")]
    folded = bench.store.buffered(TASK, 3)
    assert [(one.update.status, one.version) for one in folded] == [("folded", 0)] * 2
    assert is_proven(bench)


def test_a_refused_version_never_reaches_a_device_and_ages_no_update(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50, 1: 60}, strategy_options={"max_staleness": 1})
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    bench.settle()
    assert heard(slow)[1] == 1
    fill(bench, "c", "d")
    measure(bench, 2, 40)
    assert statuses(bench) == {1: "promoted", 2: "rejected"}
    assert bench.lifecycle.standings(TASK)[2].why == "accuracy on all sets 0.4 after 0.6, beyond 0.02 (version 1)"
    assert bench.adapter_bytes(2) != bench.adapter_bytes(1)
    assert heard(slow)[1] == 1
    assert {one.update.status for one in bench.store.buffered(TASK, 3)} == {"folded"}  # into what was refused
    (fresh,) = joined(bench, "fresh")
    for device in (slow, fresh):  # based on 0 and 1: one version behind, and none
        send(device)
    assert slow.receipts() == [("accepted", None)]
    measure(bench, 3, 61)
    assert statuses(bench)[3] == "promoted"
    assert heard(slow)[1] == 3
    base = bench.runner.versions.adapter(1)
    assert abs(bench.runner.versions.adapter(3) - base).max() > 0
    assert is_proven(bench)


def test_devices_that_had_this_version_wait_for_the_verdict_and_work_on_after_it(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50})
    a, b = joined(bench, "a", "b")
    for device in (a, b):
        send(device)
    for device in (a, b):
        device.join()
    bench.settle()
    assert (len(a.all(Work)), a.all(Decline)) == (1, [])
    measure(bench, 1, 10)
    assert [one.last(Work).round for one in (a, b)] == [2, 2]  # without asking again
    assert a.last(Work).version == 0


def test_what_waits_beside_a_candidate_is_bounded(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50})
    at_work = joined(bench, "p", "q", "r", "s")
    for device in at_work:
        send(device)
    fresh = joined(bench, "t", "u", "v", "w")
    assert [len(one.all(Work)) for one in fresh] == [0, 0, 0, 0]  # p and q made the candidate, r and s fill the buffer
    assert buffered(bench) == ["r", "s"]
    measure(bench, 1, 60)
    assert (bench.version, [len(one.all(Announce)) > 0 for one in fresh]) == (2, [True] * 4)


def test_a_pause_waits_for_the_verdict_and_the_last_version_is_judged_too(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50}, rounds=2)
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    (fresh,) = joined(bench, "fresh")
    assert bench.command("pause") == ("done", "")
    for device in (slow, fresh):
        send(device)
    assert (bench.version, bench.round_state) == (1, "open")
    measure(bench, 1, 60)
    assert (bench.version, bench.round_state) == (2, "folded")
    assert bench.command("resume")[0] == "refused"  # both versions are made
    assert not bench.service.is_done
    measure(bench, 2, 10)
    assert statuses(bench) == {1: "promoted", 2: "rejected"}
    assert bench.service.is_done
    assert (slow.last(Announce).state, slow.last(Announce).version) == ("finished", 1)
    assert is_proven(bench)


def test_the_operator_decides_before_and_after_the_verdict(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50})
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    assert bench.command("promote", 1) == ("done", "")
    assert heard(slow) == (3, 1)
    fill(bench, "c", "d")
    measure(bench, 1, 60)
    measure(bench, 2, 10)
    assert heard(slow) == (4, 1)
    assert bench.command("promote", 2) == ("done", "")  # refused, and wanted all the same
    assert heard(slow) == (5, 2)
    fill(bench, "e", "f")
    assert bench.command("rollback", 1) == ("done", "")
    assert statuses(bench) == {1: "promoted", 2: "promoted", 3: "rejected", 4: "promoted"}
    assert heard(slow) == (7, 4)
    send(slow)
    assert slow.receipts() == [("refused", "stale")]
    assert bench.adapter_bytes(4) == bench.adapter_bytes(1)
    assert is_proven(bench)


def test_a_gate_that_comes_later_takes_nothing_back_and_one_that_goes_lets_the_candidate_pass(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = make_bench(**asynchronous(), evaluation=evaluation_sets(tmp_path))
    (slow,) = joined(bench, "slow")
    fill(bench, "a", "b")
    settings = dataclasses.replace(bench.settings, gate=GateSettings())
    bench.settings = settings
    bench.evaluator = Scripted({0: 50, 1: 1})  # type: ignore[assignment]  # stands in for it
    bench.restart()
    bench.settle()
    assert heard(slow) == (2, 1)
    fill(bench, "c", "d")
    assert (bench.version, heard(slow)) == (2, (3, 1))
    bench.settings = dataclasses.replace(settings, gate=None)
    bench.restart()
    bench.settle()
    assert heard(slow) == (4, 2)
    assert is_proven(bench)


def test_show_says_which_version_waits_for_its_verdict(
    make_bench: Callable[..., Bench], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = guarded(make_bench, tmp_path, {0: 50})
    fill(bench, "a", "b")
    known = statuses_of(bench.store.versions(TASK), bench.lifecycle.standings(TASK), has_gate=True)
    facts = buffer_facts(bench.settings, bench.store, known)
    assert facts is not None
    assert (facts["candidate"], facts["version"]) == (1, 0)
    print_buffer_facts(facts)
    assert "version 1 waits for its verdict; until then devices have version 0" in capsys.readouterr().out


SCRIPT = {0: 50, 1: 60, 2: 40, 3: 61, 4: 70}


def story(make_bench: Callable[..., Bench], folder: Path, name: str) -> tuple[Bench, list[Device]]:
    settings = {**asynchronous(), "rounds": 4, "gate": GateSettings(margin=0.02)}
    bench = make_bench(name, **settings, evaluation=evaluation_sets(folder))
    bench.evaluator = Scripted(SCRIPT)  # type: ignore[assignment]  # stands in for it
    bench.evaluations._evaluator = bench.evaluator
    return bench, [bench.device(one) for one in "abc"]


def ended(bench: Bench, devices: list[Device]) -> None:
    """Play to the end, and check what must hold whatever happened."""
    play(bench, devices)
    for _ in range(4):
        bench.settle()
    assert statuses(bench) == {1: "promoted", 2: "rejected", 3: "promoted", 4: "promoted"}
    assert is_proven(bench)
    within = [one for fold in (1, 2, 3, 4) for one in bench.store.buffered(TASK, round_of(bench, fold))]
    ids = [one.update.update_id for one in within]
    assert len(set(ids)) == len(ids)
    given = {one.version for device in devices for one in device.all(Work)}
    assert 2 not in given
    for device in devices:
        versions = [one.version for one in device.all(Announce)]
        assert versions == sorted(versions)


def round_of(bench: Bench, version: int) -> int:
    (record,) = [one for one in bench.store.versions(TASK) if one.version == version]
    return record.round or 0


# Durable, one after the other: a fold, its figures, the verdict, and that the open buffer follows it.
STEPS = {"fold", "add_evaluation", "apply", "carry_over"}


def test_a_kill_around_any_step_of_a_verdict_ends_in_the_same_verdicts(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, devices = story(make_bench, tmp_path, "undisturbed")
    done: list[str] = []
    bench.hooks.before = done.append
    ended(bench, devices)
    assert set(done) > STEPS
    steps = [(at, "after") for at, name in enumerate(done) if name in STEPS]
    for at, when in [*steps, *((at, "before") for at in range(0, len(done), 37))]:
        bench, devices = story(make_bench, tmp_path, f"{when}-{at}")
        bench.hooks.kill(when, at)
        try:
            play(bench, devices)
            pytest.fail(f"not killed {when} {at}, {done[at]}")
        except KilledError:
            bench.hooks.spare()
            bench.restart()
        ended(bench, devices)
        bench.stop()


def test_a_gate_needs_sets_in_either_mode(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.evaluation"):
        task_settings(tmp_path, **asynchronous(), gate=GateSettings())
