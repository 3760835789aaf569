"""The life of a task over the fake wire: pause, resume, stop, gates, rollback and promotion; and kills in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.created_tasks import to_record
from aggregator.gate_settings import GateSettings
from aggregator.steering import LOOK_EVERY_S
from aggregator.verification import verify_task
from protocol.jobs import EvaluateResult, SetResult
from protocol.messages import Announce, Decline, Work
from tests.aggregator.workbench import (
    FLEET,
    TASK,
    Bench,
    Device,
    KilledError,
    evaluation_sets,
    make_bundle,
    task_settings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.ports import EvaluationRequest


class Scripted:
    """Gives each version the accuracy that the test says; without one it has not ended."""

    def __init__(self, accuracy: dict[int, int]) -> None:
        self.accuracy, self.waiting = accuracy, dict[int, Callable[[EvaluateResult], None]]()

    def start(self, request: EvaluationRequest, on_end: Callable[..., None]) -> None:
        self.waiting[request.version] = on_end
        if request.version in self.accuracy:
            self.end(request.version, self.accuracy[request.version])

    def end(self, version: int, n_correct: int) -> None:
        sets = {"films": SetResult(n_examples=100, n_correct=n_correct, loss=0.5)}
        self.waiting.pop(version)(EvaluateResult(sets=sets, wall_s=0.1, peak_memory_bytes=1))

    def close(self) -> None:
        pass


def gated(make_bench: Callable[..., Bench], folder: Path, accuracy: dict[int, int], **settings: Any) -> Bench:
    settings = {"rounds": 4, "gate": GateSettings(margin=0.02), "evaluation": evaluation_sets(folder), **settings}
    bench = make_bench(**settings)
    bench.evaluations._evaluator = Scripted(accuracy)
    bench.settle()
    return bench


def pair(bench: Bench) -> tuple[Device, Device]:
    return bench.device("a"), bench.device("b")


def work_round(bench: Bench, *devices: Device) -> None:
    bench.play(*devices)
    bench.settle()
    bench.settle()


def statuses(bench: Bench) -> dict[int, str]:
    return {number: one.status for number, one in bench.lifecycle.standings(TASK).items()}


# -- pause, resume, stop -----------------------------------------------------------------------------------------------


def test_a_pause_lets_those_at_work_finish_and_opens_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(min_cohort=1)
    a, b = pair(bench)
    a.join()
    bench.settle()
    assert bench.command("pause") == ("done", "")
    b.join()
    bench.settle()
    assert b.last(Decline).reason == "paused"
    a.update()
    bench.settle()
    assert (bench.version, bench.round, bench.round_state) == (1, 1, "folded")
    assert a.last(Announce).state == "paused"
    bench.clock.now += 10_000
    bench.settle()
    assert bench.round == 1


def test_a_pause_with_nobody_at_work_ends_the_round_at_once(bench: Bench) -> None:
    a, _ = pair(bench)
    bench.settle()
    bench.command("pause")
    assert bench.round_state == "abandoned"
    assert a.last(Announce).state == "paused"


def test_a_resumed_task_goes_on_with_a_new_round(bench: Bench) -> None:
    devices = pair(bench)
    bench.settle()
    bench.command("pause")
    bench.restart()
    bench.settle()
    assert bench.round_state == "abandoned"
    assert bench.command("resume") == ("done", "")
    assert (bench.round, bench.round_state) == (2, "open")
    bench.play(*devices, rounds=2)
    assert bench.version == 2


def test_a_stopped_task_is_finished_for_its_devices_and_stays_so(bench: Bench) -> None:
    a, b = pair(bench)
    bench.play(a, b)
    a.join()
    bench.settle()
    a.update()
    bench.settle()
    assert bench.command("stop") == ("done", "")
    assert bench.round_state == "abandoned"
    assert (a.last(Announce).state, a.last(Announce).version) == ("finished", 1)
    b.join()
    bench.settle()
    assert b.last(Decline).reason == "finished"
    bench.restart()
    bench.settle()
    assert bench.store.latest_round(TASK).state == "abandoned"
    status, why = bench.command("resume")
    assert (status, why) == ("refused", "the task is stopped, only one that is paused can be told to resume")


# -- the gate ----------------------------------------------------------------------------------------------------------


def test_no_round_opens_before_the_newest_version_has_passed(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50})
    devices = pair(bench)
    work_round(bench, *devices)
    assert (bench.version, bench.round_state) == (1, "folded")
    assert devices[0].last(Announce).state == "paused"
    bench.evaluations._evaluator.end(1, 49)  # type: ignore[attr-defined]
    for _ in range(3):
        bench.settle()
    assert statuses(bench) == {1: "promoted"}
    assert (bench.round, bench.round_state, bench.store.latest_round(TASK).version) == (2, "open", 1)


def test_a_worse_version_is_rejected_and_the_next_round_starts_from_the_last_promoted(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = gated(make_bench, tmp_path, {0: 50, 1: 60, 2: 40})
    devices = pair(bench)
    work_round(bench, *devices)
    work_round(bench, *devices)
    assert statuses(bench) == {1: "promoted", 2: "rejected", 3: "promoted"}
    found = bench.lifecycle.standings(TASK)
    assert found[2].why == "accuracy on all sets 0.4 after 0.6, beyond 0.02 (version 1)"
    assert (found[3].origin, found[3].why) == (1, "version 2 was rejected")
    assert bench.adapter_bytes(3) == bench.adapter_bytes(1) != bench.adapter_bytes(2)
    assert bench.store.evaluations(TASK)[3].pooled_accuracy == 0.6  # not measured again
    assert (bench.round, bench.store.latest_round(TASK).version) == (3, 3)
    devices[0].join()
    bench.settle()
    assert devices[0].last(Work).version == 3  # on the wire versions only go up


def test_the_last_round_is_judged_too(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50, 1: 10}, rounds=1)
    a, b = pair(bench)
    bench.play(a, b)
    bench.evaluations.tick()
    assert not bench.service.is_done  # its verdict is to come
    bench.settle()
    bench.settle()
    assert bench.service.is_done
    assert a.last(Announce).version == 2
    assert bench.adapter_bytes() == bench.adapter_bytes(0)


@pytest.mark.parametrize("ends", ["its rounds", "stop"])
def test_a_finished_task_names_its_last_version_only_after_the_verdict(
    ends: str, make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = gated(make_bench, tmp_path, {0: 50}, rounds=1 if ends == "its rounds" else 4)
    a, b = pair(bench)
    bench.play(a, b)
    if ends == "stop":
        assert bench.command("stop") == ("done", "")
    assert bench.version == 1
    assert (a.last(Announce).state, a.last(Announce).version) == ("finished", 0)
    bench.evaluations._evaluator.end(1, 60)  # type: ignore[attr-defined]
    for _ in range(3):
        bench.settle()
    assert (a.last(Announce).state, a.last(Announce).version) == ("finished", 1)


def test_a_history_with_a_rollback_can_be_proven(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50, 1: 10, 3: 60, 4: 70, 5: 80}, rounds=3)
    devices = pair(bench)
    for _ in range(3):
        work_round(bench, *devices)
    assert bench.runner.is_finished
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_rollback_is_a_new_version_and_withdraws_the_open_round(bench: Bench) -> None:
    a, b = pair(bench)
    bench.play(a, b)
    a.join()
    bench.settle()
    late = a.make_update()
    assert bench.command("rollback", 0) == ("done", "")
    assert [one.state for one in bench.store.rounds(TASK)] == ["folded", "abandoned", "open"]
    assert bench.adapter_bytes(2) == bench.adapter_bytes(0)
    assert a.last(Announce).version == 2
    a.publish(late, "update")
    bench.settle()
    assert a.receipts()[-1] == ("refused", "late")
    bench.play(a, b)
    assert bench.runner.is_finished  # two rounds were folded, whatever the versions' numbers
    assert bench.version == 3


def test_a_rejected_version_can_be_promoted_all_the_same(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50, 1: 10})
    work_round(bench, *pair(bench))
    assert statuses(bench) == {1: "rejected", 2: "promoted"}
    assert bench.command("promote", 1) == ("done", "")
    assert bench.adapter_bytes(3) == bench.adapter_bytes(1)
    assert bench.lifecycle.standings(TASK)[3].origin == 1


def test_a_candidate_can_be_promoted_without_its_figures(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 50})
    work_round(bench, *pair(bench))
    assert bench.command("promote", 1) == ("done", "")
    assert statuses(bench) == {1: "promoted"}
    assert (bench.round, bench.round_state) == (2, "open")


def test_a_candidate_that_a_rollback_leaves_is_not_promoted(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = gated(make_bench, tmp_path, {0: 80})
    bench.play(*pair(bench))
    assert statuses(bench) == {}
    assert bench.command("rollback", 0) == ("done", "")
    assert statuses(bench) == {1: "rejected", 2: "promoted"}
    assert bench.command("rollback", 1)[0] == "refused"


def test_a_finished_task_can_be_rolled_back(bench: Bench) -> None:
    a, b = pair(bench)
    bench.play(a, b, rounds=2)
    assert bench.command("rollback", 1) == ("done", "")
    assert (a.last(Announce).state, a.last(Announce).version) == ("finished", 3)


def test_a_refused_command_says_why_and_changes_nothing(bench: Bench) -> None:
    bench.settle()
    assert bench.command("rollback", 7) == ("refused", "there is no version 7; the newest is 0")
    assert (bench.version, bench.round, bench.round_state) == (0, 1, "open")


def test_a_command_for_an_unknown_task_is_refused(bench: Bench) -> None:
    number = bench.lifecycle.ask("nobody", "pause", version=None, unix_s=0.0)
    bench.clock.now += LOOK_EVERY_S
    bench.settle()
    assert bench.lifecycle.command(number).status == "refused"


# -- created tasks -----------------------------------------------------------------------------------------------------


def create(bench: Bench, name: str, bundle: Path) -> int:
    settings = task_settings(bundle, id=name, rounds=1)
    return bench.lifecycle.create(to_record(settings, unix_s=bench.clock.unix_s()))


def play_second(bench: Bench, name: str, *devices: Device) -> None:
    setup = bench.service._runners[name].setup
    for device in devices:
        device.join(1, task=name, bundle_id=setup.bundle.id)
        bench.settle()
    for device in devices:
        work = next(one for one in device.all(Work) if one.task == name)
        device.update(work=work, seed=9)
        bench.settle()


def test_a_created_task_begins_beside_the_first_and_both_run(bench: Bench) -> None:
    bench.settle()
    number = create(bench, "second", make_bundle(bench.folder / "other", seed=3))
    bench.clock.now += LOOK_EVERY_S
    bench.settle()
    assert bench.lifecycle.command(number).status == "done"
    a, b = pair(bench)
    assert {one.task for one in a.all(Announce)} == {TASK, "second"}
    bench.play(a, b)
    play_second(bench, "second", a, b)
    assert bench.store.latest_version("second").version == bench.version == 1
    assert bench.runner.versions.adapter(1).tobytes() != bench.service._runners["second"].versions.adapter(1).tobytes()


def test_a_task_whose_bundle_is_gone_is_refused_and_forgotten(bench: Bench) -> None:
    bench.settle()
    number = create(bench, "second", bench.folder / "nowhere")
    bench.clock.now += LOOK_EVERY_S
    bench.settle()
    record = bench.lifecycle.command(number)
    assert (record.status, "no bundle here" in record.why) == ("refused", True)
    assert bench.lifecycle.created() == ()


# -- kills -------------------------------------------------------------------------------------------------------------


def story(bench: Bench, *devices: Device) -> None:
    """Play two rounds, the second one's version being bad, and roll back by hand at the end."""
    asked = False
    for _ in range(80):
        bench.settle()
        if bench.runner.is_settled and bench.evaluations.is_idle and not asked:
            asked = True
            bench.lifecycle.ask(TASK, "rollback", version=1, unix_s=0.0)
        bench.clock.now += LOOK_EVERY_S
        bench.settle()
        if asked and not bench.lifecycle.waiting():
            return
        announces = [device.all(Announce) for device in devices]
        for device, heard in zip(devices, announces, strict=True):
            if heard and heard[-1].state == "open":
                works = [work for work in device.all(Work) if work.round == heard[-1].round]
                if works:
                    device.update(work=works[-1])
                else:
                    device.join(heard[-1].round)
                bench.settle()
    pytest.fail("the story did not end")


SCRIPT = {0: 50, 1: 60, 2: 40, 3: 60, 4: 60}


# Durable, one after the other: a fold, its figures, the verdict with what it puts back, the next round.
STEPS = {"fold", "add_evaluation", "apply", "open_round"}


def test_a_kill_around_any_step_of_a_verdict_ends_in_the_same_versions(
    make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    numbers = itertools.count()

    def run(kill_at: int | None = None, when: str = "before") -> tuple[list[bytes], dict[int, str], list[str]]:
        bench = make_bench(
            f"b{next(numbers)}", rounds=2, gate=GateSettings(margin=0.02), evaluation=evaluation_sets(tmp_path)
        )
        bench.evaluations._evaluator = Scripted(SCRIPT)
        devices, done = pair(bench), list[str]()
        if kill_at is None:
            bench.hooks.before = done.append
        else:
            bench.hooks.kill(when, kill_at)
        try:
            story(bench, *devices)
            assert kill_at is None
        except KilledError:
            bench.hooks.spare()
            bench.restart()
            bench.evaluations._evaluator = Scripted(SCRIPT)
            story(bench, *devices)
        for device in devices:
            told = [one.version for one in (*device.all(Announce), *device.all(Work))]
            assert 1 in told
            assert 2 not in told
        versions = [bench.adapter_bytes(one.version) for one in bench.store.versions(TASK)]
        return versions, statuses(bench), done

    versions, decided, done = run()
    assert decided == {1: "promoted", 2: "rejected", 3: "promoted"} | {4: "promoted"}
    assert set(done) > STEPS
    steps = [(at, "after") for at, name in enumerate(done) if name in STEPS]
    for at, when in [*steps, *((at, "before") for at in range(3, len(done), 17))]:
        again, decided_again, _ = run(at, when)
        assert again[:4] == versions[:4]
        assert {number: decided_again[number] for number in (1, 2, 3)} == {1: "promoted", 2: "rejected", 3: "promoted"}
