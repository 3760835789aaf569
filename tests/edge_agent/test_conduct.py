"""Rules are carried out: a trainer is paused, goes on, is ended; what a day has used outlives the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.conduct_record import read_conduct
from edge_agent.conduct import Conduct
from edge_agent.core.eligibility import Readings
from edge_agent.core.session import Job, SendJoin, SendStep, SendUpdate
from edge_agent.rules_settings import RulesSettings
from host.cgroup import make_trainer_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = RulesSettings(max_celsius=70.0, min_free_memory_mb=100, max_minutes_a_day=10, look_every_s=10, end_after_s=60)
FINE = Readings(day=5, minute=0, celsius=40.0, free_memory_bytes=10**9)
HOT = Readings(day=5, minute=0, celsius=80.0, free_memory_bytes=10**9)
FULL = Readings(day=5, minute=0, celsius=40.0, free_memory_bytes=1)


class Trainer:
    pid = 7

    def __init__(self) -> None:
        self.said: list[str] = []

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")

    def close(self) -> None:
        self.said.append("close")


class Ward:
    """A device whose time and readings the test sets."""

    def __init__(self, folder: Path, rules: RulesSettings = RULES) -> None:
        self.now_s, self.readings, self.folder, self.n_read = 0.0, FINE, folder, 0
        self.rules = rules
        self.restart()

    def restart(self) -> None:
        self.conduct = Conduct(self.rules, self.folder, self.read, clock=lambda: self.now_s)

    def read(self, pid: int | None) -> Readings:
        assert pid in (None, 7)
        self.n_read += 1
        return self.readings

    def after(self, seconds: float, trainer: Trainer | None) -> bool:
        self.now_s += seconds
        return self.conduct.turn(trainer)


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def test_a_trainer_is_paused_by_a_rule_and_goes_on_when_it_lets_go(ward: Ward) -> None:
    trainer = Trainer()
    assert not ward.after(0, trainer)
    ward.readings = HOT
    assert not ward.after(5, trainer)  # not looked at yet
    assert not ward.after(5, trainer)
    assert not ward.after(10, trainer)
    assert trainer.said == ["pause"]
    assert not ward.conduct.may_train
    ward.readings = FINE
    assert not ward.after(10, trainer)
    assert trainer.said == ["pause", "resume"]


def test_a_trainer_that_is_paused_long_or_whose_memory_is_needed_is_ended(ward: Ward) -> None:
    trainer = Trainer()
    ward.readings = HOT
    assert not ward.after(0, trainer)
    assert not ward.after(59, trainer)
    assert ward.after(10, trainer)
    ward.readings = FULL
    assert ward.after(10, Trainer())


def test_minutes_are_counted_while_training_alone_and_outlive_the_agent(ward: Ward) -> None:
    trainer = Trainer()
    ward.after(0, None)
    ward.after(300, None)  # idle: not counted
    ward.after(10, trainer)
    for _ in range(20):
        ward.after(10, trainer)
    kept = read_conduct(ward.folder).use
    assert 150 <= kept.train_s <= 210
    ward.restart()
    ward.after(10, trainer)
    for _ in range(60):
        ward.after(10, trainer)
    assert not ward.conduct.may_train
    assert "10 minutes" in read_conduct(ward.folder).holds[0]
    ward.readings = Readings(day=6, minute=0, celsius=40.0, free_memory_bytes=10**9)
    ward.after(10, trainer)
    assert ward.conduct.may_train


def test_what_may_be_sent_follows_the_rules(tmp_path: Path) -> None:
    ward = Ward(tmp_path, RulesSettings(needs_unmetered=True, max_sent_mb_a_day=1, quiet_hours=("00:00-01:00",)))
    join, update, step = SendJoin(Job(task="t", round=1, bundle_id="b")), SendUpdate(b"u"), SendStep(b"u")

    def allowed(minute: int, *, is_metered: bool) -> list[bool]:
        ward.readings = Readings(day=5, minute=minute, is_metered=is_metered)
        ward.after(10, None)
        return [ward.conduct.may_do(one) for one in (join, update, step)]

    assert allowed(0, is_metered=False) == [False, True, True]
    assert allowed(90, is_metered=False) == [True, True, True]
    assert allowed(90, is_metered=True) == [False, False, True]
    ward.conduct.sent(1_000_000)
    assert allowed(90, is_metered=False) == [False, False, True]


def test_without_rules_nothing_is_read_or_written(tmp_path: Path) -> None:
    ward = Ward(tmp_path, RulesSettings())
    assert not ward.after(1e6, Trainer())
    assert (ward.n_read, list(tmp_path.iterdir()), ward.conduct.wait_s) == (0, [], None)


def test_a_damaged_record_forgets_the_day_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "conduct.cbor").write_bytes(b"\xff" * 9)
    assert read_conduct(tmp_path).use.train_s == 0.0


def test_a_real_process_is_stopped_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from host.trainer_process import TrainerProcess

    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trainer = TrainerProcess.__new__(TrainerProcess)
    monkeypatch.setattr(trainer, "_process", process, raising=False)
    try:
        for do, states in ((trainer.pause, "T"), (trainer.resume, "RSD")):
            do()
            wait_for(lambda wanted=states: state_of(process.pid) in wanted)
        trainer.pause()
        trainer.kill()  # also of one that is stopped
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_cgroup_is_divided_where_it_is_ours(tmp_path: Path) -> None:
    here = tmp_path / "system.slice" / "edgefold.service"
    here.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (here / "cgroup.controllers").write_text("cpu memory")
    own = tmp_path / "own"
    own.write_text("0::/system.slice/edgefold.service\n")
    made = make_trainer_cgroup(memory_bytes=1 << 30, cpu_fraction=0.5, root=tmp_path, own=own)
    assert made == here / "trainer"
    assert (made / "memory.max").read_text() == str(1 << 30)
    assert (made / "cpu.max").read_text() == f"{round(0.5 * (os.cpu_count() or 1) * 100_000)} 100000"
    assert (here / "agent" / "cgroup.procs").read_text() == str(os.getpid())
    own.write_text("0::/system.slice/edgefold.service/agent\n")  # after a restart
    assert make_trainer_cgroup(memory_bytes=None, cpu_fraction=None, root=tmp_path, own=own) == made
    assert (made / "cpu.max").read_text() == "max 100000"


@pytest.mark.parametrize(
    ("line", "controllers"), [("0::/\n", "cpu memory"), ("0::/a\n", "pids"), ("4:memory:/a\n", "cpu memory")]
)
def test_a_cgroup_that_is_not_ours_is_left_alone(tmp_path: Path, line: str, controllers: str) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "cgroup.controllers").write_text(controllers)
    own = tmp_path / "own"
    own.write_text(line)
    assert make_trainer_cgroup(memory_bytes=1, cpu_fraction=1, root=tmp_path, own=own) is None
    assert not (tmp_path / "a" / "agent").exists()
