"""The caller's side of the trainer's pipe, against fake trainers that do every wrong thing."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from host.trainer_process import Launch, TrainerProcess, run_job
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, UpdateError
from protocol.jobs import MAX_LINE_BYTES, EvaluateJob, EvaluateResult, Progress, SetResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = EvaluateJob(bundle="b", sets={"test": "t.jsonl"})
SET = '{"n_examples": 4, "n_correct": 3, "loss": 0.5}'
DONE = f'{{"kind": "done", "sets": {{"test": {SET}}}, "wall_s": 1, "peak_memory_bytes": 5}}'
RESULT = EvaluateResult(sets={"test": SetResult(n_examples=4, n_correct=3, loss=0.5)}, wall_s=1.0, peak_memory_bytes=5)
DEADLINE_S = 20.0


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], Launch]:
    """Return a launch whose interpreter is a script: it is a trainer that runs ``body``."""

    def make(body: str) -> Launch:
        path = tmp_path / "fake-python"
        head = f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
        path.write_text(head + "def say(text):\n    print(text, flush=True)\n" + body, "utf-8")
        path.chmod(0o700)
        return Launch(interpreter=str(path))

    return make


@pytest.fixture
def others() -> set[int]:
    """Return the children that this process has before a test, such as the database of other tests."""
    return children()


def children() -> set[int]:
    return {one.pid for one in psutil.Process().children()}


def run(launch: Launch, *, deadline_s: float = DEADLINE_S) -> EvaluateResult:
    return run_job(JOB, deadline_s=deadline_s, launch=launch)


def test_a_job_goes_in_and_its_result_comes_out(fake: Callable[[str], Launch]) -> None:
    launch = fake(
        "job = json.loads(sys.stdin.readline())\n"
        "assert job['sets'] == {'test': 't.jsonl'}, job\n"
        "assert sys.argv[1:3] == ['-m', 'edge_agent.trainer'], sys.argv\n"
        "assert '--nice=5' in sys.argv and '--memory-limit=1000' in sys.argv, sys.argv\n"
        f"assert '--parent={os.getpid()}' in sys.argv, sys.argv\n"
        f"say('{DONE}')\n"
    )
    launch = Launch(interpreter=launch.interpreter, nice=5, memory_limit_bytes=1000)
    assert run(launch) == RESULT


def test_progress_is_reported_as_it_comes(fake: Callable[[str], Launch]) -> None:
    seen: list[Progress] = []
    body = "for i in range(3): say(json.dumps({'kind': 'progress', 'step': i, 'n_steps': 3, 'loss': 1}))\n"
    assert run_job(JOB, deadline_s=DEADLINE_S, launch=fake(body + f"say('{DONE}')"), on_progress=seen.append) == RESULT
    assert seen == [Progress(step=i, n_steps=3, loss=1.0) for i in range(3)]


@pytest.mark.parametrize(
    ("blame", "expected"),
    [("config", ConfigError), ("bundle", BundleError), ("update", UpdateError), ("engine", EngineError)],
)
def test_a_failure_is_raised_by_its_blame(
    blame: str, expected: type[EdgefoldError], fake: Callable[[str], Launch]
) -> None:
    with pytest.raises(expected, match="because"):
        run(fake(f"say(json.dumps({{'kind': 'failed', 'blame': '{blame}', 'error': 'because'}})); sys.exit(1)"))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("sys.exit(3)", "exited with 3 before it was done: it wrote nothing"),
        ("sys.exit('out of luck')", "exited with 1 before it was done: out of luck"),
        ("1 / 0", "exited with 1 before it was done: ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by signal 11"),
        ('sys.stdout.write(\'{"kind": "do\'); sys.stdout.flush(); sys.exit(4)', "exited with 4"),
        ("say('hello')", "a line that is not of its pipe"),
        ("say('[]')", "a line that is not of its pipe"),
        ("say('null')", "a line that is not of its pipe"),
        ("say('[' * 100000)", "a line that is not of its pipe"),
        ('say(\'{"kind": "done"}\')', "sets: missing"),
        ('say(\'{"kind": "failed", "blame": "you", "error": "x"}\')', "blame: expected one of"),
        ('say(\'{"kind": "progress", "step": "x", "n_steps": 1}\')', "step: expected int"),
        ("sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); time.sleep(60)", "not of its pipe"),
    ],
)
def test_a_trainer_that_breaks_is_an_engine_error_that_says_how(
    body: str, what: str, fake: Callable[[str], Launch]
) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=what):
        run(fake(body))
    assert time.monotonic() - began < 10


def test_a_trainer_that_hangs_is_ended_at_the_deadline(fake: Callable[[str], Launch], others: set[int]) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"overran its deadline of 0\.5 s"):
        run(fake("time.sleep(60)"), deadline_s=0.5)
    assert time.monotonic() - began < 5
    assert children() == others


def test_a_trainer_that_reports_for_ever_is_ended_at_the_deadline(fake: Callable[[str], Launch]) -> None:
    with pytest.raises(EngineError, match="overran"):
        run(fake('while True: say(\'{"kind": "progress", "step": 1, "n_steps": 2}\')'), deadline_s=0.5)


def test_a_flood_without_line_ends_is_cut_off(fake: Callable[[str], Launch]) -> None:
    with pytest.raises(EngineError, match=f"more than {MAX_LINE_BYTES} bytes"):
        run(fake("while True: sys.stdout.write('x' * 65536)"))


def test_a_flood_of_errors_does_not_stop_the_job_and_fills_nothing(fake: Callable[[str], Launch]) -> None:
    before = psutil.Process().memory_info().rss
    assert run(fake(f"for _ in range(500): sys.stderr.write('x' * 65536)\nsay('{DONE}')")) == RESULT
    assert psutil.Process().memory_info().rss - before < 16 << 20  # 32 MB were written


def test_a_trainer_that_never_reads_its_job_is_ended_at_the_deadline(fake: Callable[[str], Launch]) -> None:
    large = EvaluateJob(bundle="b", sets={str(i): "x" * 4000 for i in range(100)})  # more than a pipe holds
    with pytest.raises(EngineError, match="overran"):
        run_job(large, deadline_s=0.5, launch=fake("time.sleep(60)"))


def test_a_trainer_that_closes_its_output_and_stays_is_ended(
    fake: Callable[[str], Launch], others: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.trainer_process._GRACE_S", 0.3)
    with pytest.raises(EngineError, match="closed its output"):
        run(fake("os.close(1); time.sleep(60)"))
    assert children() == others


def test_a_trainer_that_is_done_but_does_not_exit_is_ended(
    fake: Callable[[str], Launch], others: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.trainer_process._GRACE_S", 0.3)
    assert run(fake(f"say('{DONE}')\ntime.sleep(60)")) == RESULT
    assert children() == others


def test_a_missing_interpreter_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot start a trainer: No such file"):
        run(Launch(interpreter=str(tmp_path / "none")))
    (tmp_path / "plain").touch(mode=0o600)
    with pytest.raises(EngineError, match="cannot start a trainer"):
        run(Launch(interpreter=str(tmp_path / "plain")))


def test_the_end_is_told_exactly_once_and_close_waits_for_it(fake: Callable[[str], Launch]) -> None:
    ends: list[object] = []
    process = TrainerProcess(JOB, on_end=ends.append, launch=fake("time.sleep(60)"))
    assert psutil.pid_exists(process.pid)
    process.close()
    process.close()
    (end,) = ends
    assert isinstance(end, EngineError)
    assert "signal 9" in str(end)


def test_killing_from_another_thread_ends_the_wait(fake: Callable[[str], Launch]) -> None:
    ended = threading.Event()
    process = TrainerProcess(JOB, on_end=lambda _: ended.set(), launch=fake("time.sleep(60)"))
    threading.Timer(0.2, process.kill).start()
    assert ended.wait(10)
    process.close()
