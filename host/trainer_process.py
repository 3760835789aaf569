"""Starts a trainer process for one job and reads its lines: the caller's side of ``protocol.jobs``.

Laws: the caller never loads an ML runtime; a trainer's crash, hang or flood of output ends the trainer and is an
``EngineError`` with the end of its standard error, never more; a trainer dies with its caller (it watches its parent).
Memory: one line of at most ``MAX_LINE_BYTES``, and the last ``_STDERR_TAIL_BYTES`` of its error stream.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, TypeAlias, overload

from host.engines import interpreter_of
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, UpdateError
from protocol.fields import plain, structure
from protocol.jobs import (
    MAX_LINE_BYTES,
    CheckJob,
    CheckResult,
    EvaluateJob,
    EvaluateResult,
    Failed,
    Job,
    Progress,
    SumStepJob,
    SumStepResult,
    TrainJob,
    TrainResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Launch", "Result", "TrainerProcess", "run_job"]

Result: TypeAlias = TrainResult | EvaluateResult | CheckResult | SumStepResult

_RESULTS: Final[dict[type[Job], type[Result]]] = {
    TrainJob: TrainResult,
    EvaluateJob: EvaluateResult,
    CheckJob: CheckResult,
    SumStepJob: SumStepResult,
}
_STDERR_TAIL_BYTES: Final = 2000
_STDERR_CHUNK_BYTES: Final = 65536  # a Linux pipe holds as much
# glibc's allocator (mallopt(3)): one arena, and what is free at its end goes back at once: 4 MB less at MiniLM's peak.
_MALLOC: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
_GRACE_S: Final = 5.0  # between a trainer's last line and its exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How trainers are started."""

    interpreter: str | None = None  # that of the job's engine
    nice: int = 0
    memory_limit_bytes: int | None = None
    cgroup: Path | None = None  # the trainer enters it before it loads anything


class TrainerProcess:
    """One trainer working on one job.

    ``on_progress`` and ``on_end`` are called from a thread of this object; ``on_end`` exactly once, with the result or
    the error. ``close`` ends the process and waits for that thread.
    """

    def __init__(
        self,
        job: Job,
        *,
        on_end: Callable[[Result | EdgefoldError], None],
        on_progress: Callable[[Progress], None] | None = None,
        launch: Launch | None = None,
    ) -> None:
        """Start the process and hand it the job.

        Raises:
            EngineError: the job's engine is not installed, or its interpreter cannot be started.
            ConfigError: there is no such engine.
        """
        launch = launch or Launch()
        own = sys.executable if isinstance(job, SumStepJob) else interpreter_of(job.engine)  # sums need no engine
        interpreter = launch.interpreter or own
        self._result_type = _RESULTS[type(job)]
        self._on_end, self._on_progress = on_end, on_progress
        command = [interpreter, "-m", "edge_agent.trainer", f"--nice={launch.nice}", f"--parent={os.getpid()}"]
        if launch.memory_limit_bytes is not None:
            command.append(f"--memory-limit={launch.memory_limit_bytes}")
        if launch.cgroup is not None:
            command.append(f"--cgroup={launch.cgroup}")
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, close_fds=True, env={**os.environ, **_MALLOC}
            )
        except OSError as error:
            raise EngineError(f"{interpreter}: cannot start a trainer: {error.strerror}") from error
        self._stderr = _Tail(_pipe(self._process.stderr))
        self._thread = threading.Thread(target=self._converse, args=(job,), name="trainer-pipe", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id, for the operator's eyes."""
        return self._process.pid

    def pause(self) -> None:
        """Stop the process where it is (SIGSTOP); its memory stays."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once; ``on_end`` then gets an ``EngineError``."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """End the process if it still runs, and wait until ``on_end`` was called."""
        self.kill()
        self._thread.join()

    def _converse(self, job: Job) -> None:
        self._send(job)
        outcome = self._read() or self._death()
        if isinstance(outcome, EdgefoldError):
            self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()
        self._process.wait()
        self._stderr.close()
        self._on_end(outcome)

    def _send(self, job: Job) -> None:
        # It may have died already: the reader says why.
        with contextlib.suppress(BrokenPipeError), _pipe(self._process.stdin) as stdin:
            stdin.write(json.dumps(plain(job)).encode() + b"\n")

    def _read(self) -> Result | EdgefoldError | None:
        with _pipe(self._process.stdout) as stdout:
            while line := stdout.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    return EngineError(f"the trainer wrote a line of more than {MAX_LINE_BYTES} bytes")
                if not line.endswith(b"\n"):
                    return None  # it was ended in the middle of a line
                message = self._parse(line)
                if not isinstance(message, Progress):
                    return message
                if self._on_progress is not None:
                    self._on_progress(message)
        return None

    def _parse(self, line: bytes) -> Progress | Result | EdgefoldError:
        try:
            message = json.loads(line)
            kind = message.get("kind") if isinstance(message, dict) else None
            if kind == "progress":
                return structure(Progress, message, lenient_floats=True)
            if kind == "done":
                return structure(self._result_type, message, lenient_floats=True)
            return _error_of(structure(Failed, message))
        except (ValueError, RecursionError) as error:
            return EngineError(f"the trainer wrote a line that is not of its pipe: {error}")

    def _death(self) -> EngineError:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return EngineError("the trainer closed its output before it was done")
        how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
        return EngineError(f"the trainer {how} before it was done: {self._stderr.last_line()}")


class _Tail:
    """Reads a pipe to its end in a thread of its own and keeps the last bytes, so that a flood fills nothing."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._kept = pipe, b""
        self._thread = threading.Thread(target=self._read, name="trainer-stderr", daemon=True)
        self._thread.start()

    def last_line(self) -> str:
        """Return the last line that was written; waits a moment for the rest of a dead process's output."""
        self._thread.join(_GRACE_S)
        lines = self._kept.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def close(self) -> None:
        """Wait for the end, unless a grandchild still holds the pipe."""
        self._thread.join(_GRACE_S)

    def _read(self) -> None:
        with self._pipe as pipe:
            while chunk := os.read(pipe.fileno(), _STDERR_CHUNK_BYTES):
                self._kept = (self._kept + chunk)[-_STDERR_TAIL_BYTES:]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:  # pragma: no cover - Popen was given PIPE
        raise EngineError("the trainer has no pipe")
    return pipe


@overload
def run_job(
    job: TrainJob,
    *,
    deadline_s: float,
    on_progress: Callable[[Progress], None] | None = None,
    launch: Launch | None = None,
) -> TrainResult: ...
@overload
def run_job(
    job: EvaluateJob,
    *,
    deadline_s: float,
    on_progress: Callable[[Progress], None] | None = None,
    launch: Launch | None = None,
) -> EvaluateResult: ...
@overload
def run_job(
    job: CheckJob,
    *,
    deadline_s: float,
    on_progress: Callable[[Progress], None] | None = None,
    launch: Launch | None = None,
) -> CheckResult: ...
def run_job(
    job: Job,
    *,
    deadline_s: float,
    on_progress: Callable[[Progress], None] | None = None,
    launch: Launch | None = None,
) -> Result:
    """Run ``job`` in a trainer process and return its result.

    Raises:
        EngineError: the engine failed, or the deadline passed.
        BundleError, ConfigError, UpdateError: the trainer blames the bundle, the data or settings, the adapter.
    """
    outcome: list[Result | EdgefoldError] = []
    ended = threading.Event()

    def end(result: Result | EdgefoldError) -> None:
        outcome.append(result)
        ended.set()

    process = TrainerProcess(job, on_end=end, on_progress=on_progress, launch=launch)
    try:
        in_time = ended.wait(deadline_s)
    finally:
        process.close()
    if not in_time:
        raise EngineError(f"the trainer overran its deadline of {deadline_s:g} s")
    if isinstance(outcome[0], EdgefoldError):
        raise outcome[0]
    return outcome[0]


def _error_of(failed: Failed) -> EdgefoldError:
    match failed.blame:
        case "config":
            return ConfigError(failed.error)
        case "bundle":
            return BundleError(failed.error)
        case "update":
            return UpdateError(failed.error, reason="bad-encoding")
        case "engine":
            return EngineError(failed.error)
