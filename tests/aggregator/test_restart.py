"""Killed anywhere, the service ends with the same versions, byte for byte, and no update is lost or counted twice.

The same scenario runs undisturbed, with a restart after every event, with a kill before and after each single effect on
the outside (a transaction, a blob, a message, an acknowledgement), and as a process that is really killed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aggregator.verification import verify_task
from protocol.messages import Announce, Work
from tests.aggregator.workbench import FLEET, TASK, Bench, Device, KilledError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def take_part(device: Device) -> None:
    """What a device does whenever it hears something: join the open round, answer its work, resend until receipted."""
    announces = device.all(Announce)
    if not announces or announces[-1].state == "finished":
        return
    round_ = announces[-1].round
    works = [work for work in device.all(Work) if work.round == round_]
    if not works:
        device.join(round_)
    else:
        device.update(work=works[-1])


def play_with_restarts(bench: Bench, *, every: int | None) -> None:
    """Let two devices take turns until the task ends; the service starts again after each so many turns."""
    devices = [bench.device("a"), bench.device("b")]
    for n_steps in range(60):
        if bench.runner.is_finished:
            return
        take_part(devices[n_steps % 2])
        bench.settle()
        if every is not None and n_steps % every == every - 1:
            bench.restart()


def play_to_the_end(bench: Bench, devices: list[Device]) -> None:
    for _ in range(60):
        if bench.runner.is_finished:
            return
        for device in devices:
            take_part(device)
            bench.settle()
    pytest.fail("the task did not finish")


def outcome(bench: Bench) -> list[bytes]:
    """The bytes of every version, after checking that each update is in exactly one."""
    ids = bench.folded_ids()
    assert len(set(ids)) == len(ids) == 4
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good
    return [bench.adapter_bytes(record.version) for record in bench.store.versions(TASK)]


def undisturbed(make_bench: Callable[..., Bench]) -> tuple[list[bytes], int]:
    """Return the versions and how many effects it took."""
    bench = make_bench("undisturbed")
    bench.hooks.count()
    play_to_the_end(bench, [bench.device("a"), bench.device("b")])
    return outcome(bench), bench.hooks.n_effects


def test_a_restart_after_every_event_changes_nothing(make_bench: Callable[..., Bench]) -> None:
    expected, _ = undisturbed(make_bench)
    bench = make_bench("restarted")
    devices = [bench.device("a"), bench.device("b")]
    for _ in range(60):
        if bench.runner.is_finished:
            break
        for device in devices:
            take_part(device)
            bench.service.step(0)  # the link comes up
            while bench.service.step(0):
                bench.restart()
                bench.service.step(0)
    assert outcome(bench) == expected


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_effect_changes_nothing(when: str, make_bench: Callable[..., Bench]) -> None:
    expected, n_effects = undisturbed(make_bench)
    assert n_effects > 20
    for n in range(n_effects):
        bench = make_bench(f"{when}-{n}")
        devices = [bench.device("a"), bench.device("b")]
        bench.hooks.kill(when, n)
        try:
            play_to_the_end(bench, devices)
        except KilledError:
            bench.hooks.spare()
            bench.restart()
        play_to_the_end(bench, devices)
        assert outcome(bench) == expected, f"killed {when} effect {n}"
        bench.stop()


def test_a_round_that_was_open_keeps_a_grace_after_a_restart(bench: Bench) -> None:
    a = bench.device("a")
    a.join()
    bench.settle()
    bench.clock.now += 99
    bench.restart()
    bench.settle()
    a.join()
    bench.settle()
    assert 40 < a.last(Work).seconds_left < 50
    bench.clock.now += 50
    bench.settle()
    assert bench.round == 2


def test_a_clock_that_was_set_back_makes_no_round_endless(bench: Bench) -> None:
    a = bench.device("a")
    bench.clock.unix_s = lambda: 0.0  # type: ignore[method-assign]
    bench.restart()
    bench.settle()
    a.join()
    bench.settle()
    assert a.last(Work).seconds_left <= bench.settings.deadline_s


def test_orphaned_blobs_are_removed_at_the_start(bench: Bench) -> None:
    orphan = bench.blobs.put(b"an update whose row was never written")
    bench.restart()
    assert not (bench.blob_folder / orphan).exists()
    assert bench.adapter_bytes()


VICTIM = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.aggregator.test_restart import play_to_the_end
from tests.aggregator.workbench import Bench
bench = Bench(pathlib.Path(sys.argv[2]))
if len(sys.argv) > 3:
    when, effect, n = sys.argv[3], sys.argv[4], int(sys.argv[5])
    def kill(name):
        global n
        if name == effect:
            n -= 1
            if n == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    setattr(bench.hooks, when, kill)
play_to_the_end(bench, [bench.device("a"), bench.device("b")])
bench.stop()
"""


def run_victim(folder: Path, *kill: str) -> int:
    command = [sys.executable, "-c", VICTIM, str(ROOT), str(folder), *kill]
    return subprocess.run(command, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode


@pytest.mark.parametrize(
    ("when", "effect", "n"),
    [("before", "accept", "2"), ("after", "accept", "3"), ("after", "start_closing", "1"), ("before", "fold", "1"),
     ("after", "fold", "1")],
)  # fmt: skip
def test_a_process_killed_by_sigkill_resumes_to_the_same_bytes(
    when: str, effect: str, n: str, tmp_path: Path, make_bench: Callable[..., Bench], empty_database: Path
) -> None:
    expected, _ = undisturbed(make_bench)
    folder = tmp_path / "victim"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "aggregator.db").write_bytes(empty_database.read_bytes())
    assert run_victim(folder, when, effect, n) == -9
    assert run_victim(folder) == 0
    bench = make_bench("victim")
    assert outcome(bench) == expected
