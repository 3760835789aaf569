"""Starts a trainer process for one job and reads its lines: the caller's side of ``protocol.jobs``.

Laws: the caller never loads an ML runtime; a trainer's crash, hang or flood of output ends the trainer and is an
``EngineError`` with the end of its standard error, never more; a trainer dies with its caller (it watches its parent).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, UpdateError
from protocol.fields import FieldError, plain, structure
from protocol.jobs import (
    MAX_LINE_BYTES,
    CheckJob,
    CheckResult,
    EvaluateJob,
    EvaluateResult,
    Failed,
    Job,
    Progress,
    TrainJob,
    TrainResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TrainerProcess", "run_job"]

Result = TrainResult | EvaluateResult | CheckResult
R = TypeVar("R", TrainResult, EvaluateResult, CheckResult)

_RESULTS: Final[dict[type, type]] = {TrainJob: TrainResult, EvaluateJob: EvaluateResult, CheckJob: CheckResult}
_STDERR_TAIL_BYTES: Final = 2000
_GRACE_S: Final = 5.0  # between a trainer's last line and its exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How trainers are started; another interpreter where an engine needs its own environment."""

    interpreter: str = sys.executable
    nice: int = 0
    memory_limit_bytes: int | None = None


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
            EngineError: the interpreter cannot be started.
        """
        launch = launch or Launch()
        self._result_type = _RESULTS[type(job)]
        self._on_end, self._on_progress = on_end, on_progress
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the reader thread at the end
        command = [launch.interpreter, "-m", "edge_agent.trainer", f"--nice={launch.nice}", f"--parent={os.getpid()}"]
        if launch.memory_limit_bytes is not None:
            command.append(f"--memory-limit={launch.memory_limit_bytes}")
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, close_fds=True
            )
        except OSError as error:
            self._stderr.close()
            raise EngineError(f"{launch.interpreter}: cannot start a trainer: {error.strerror}") from error
        self._send(job)
        self._thread = threading.Thread(target=self._read, name="trainer-pipe", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id, for the operator's eyes."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once; ``on_end`` then gets an ``EngineError``."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """End the process if it still runs, and wait until ``on_end`` was called."""
        self.kill()
        self._thread.join()

    def _send(self, job: Job) -> None:
        stdin = self._process.stdin
        if stdin is None:  # pragma: no cover - Popen was given PIPE
            raise EngineError("the trainer has no standard input")
        with contextlib.suppress(BrokenPipeError):  # it died already: the reader says why
            stdin.write(json.dumps(plain(job)).encode() + b"\n")
            stdin.close()

    def _read(self) -> None:
        outcome: Result | EdgefoldError | None = None
        stdout = self._process.stdout
        if stdout is None:  # pragma: no cover - Popen was given PIPE
            return
        with stdout:
            while outcome is None and (line := stdout.readline(MAX_LINE_BYTES + 1)):
                outcome = self._take(line)
        outcome = outcome or self._death()
        if isinstance(outcome, EdgefoldError):
            self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()
        self._process.wait()
        self._stderr.close()
        self._on_end(outcome)

    def _take(self, line: bytes) -> Result | EdgefoldError | None:
        try:
            if len(line) > MAX_LINE_BYTES:
                raise FieldError("line too long")
            message: dict[str, Any] = json.loads(line)
            match message.get("kind"):
                case "progress":
                    if self._on_progress is not None:
                        self._on_progress(structure(Progress, message, lenient_floats=True))
                    return None
                case "done":
                    result: Result = structure(self._result_type, message, lenient_floats=True)
                    return result
                case _:
                    return _error_of(structure(Failed, message))
        except (ValueError, AttributeError) as error:
            return EngineError(f"the trainer wrote a line that is not of its pipe: {error}")

    def _death(self) -> EngineError:
        code = self._process.wait()
        self._stderr.seek(0, 2)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_TAIL_BYTES))
        tail = self._stderr.read().decode("utf-8", "replace").strip()
        last = tail.splitlines()[-1] if tail else "it wrote nothing"
        how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
        return EngineError(f"the trainer {how} before it was done: {last}")


def run_job(
    job: Job,
    *,
    deadline_s: float,
    on_progress: Callable[[Progress], None] | None = None,
    launch: Launch | None = None,
) -> Any:  # noqa: ANN401 - the result type that belongs to the job's type
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

    started = time.monotonic()
    process = TrainerProcess(job, on_end=end, on_progress=on_progress, launch=launch)
    try:
        in_time = ended.wait(deadline_s)
    finally:
        process.close()
    if not in_time:
        raise EngineError(f"the trainer overran its deadline of {time.monotonic() - started:.0f} s")
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
