"""The trainer's process: limits first, then the job from standard input, then JSON lines to standard output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from host.cgroup import enter_cgroup
from host.parent import die_with_parent
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, StorageError, UpdateError
from protocol.fields import FieldError, plain, structure
from protocol.jobs import MAX_LINE_BYTES, Blame, CheckJob, EvaluateJob, Failed, Job, SumStepJob, TrainJob

if TYPE_CHECKING:
    from collections.abc import Callable

    Say: TypeAlias = Callable[[object], None]

_MAX_ERROR_CHARS: Final = 2000  # far below MAX_LINE_BYTES, far above what one line needs


def main() -> int:
    """Do one job; 0 if it was done, 1 if it failed and said why."""
    started = time.monotonic()
    options = _options()
    if options.parent is not None:
        die_with_parent(options.parent)
    os.nice(options.nice)
    if options.cgroup is not None:
        with contextlib.suppress(OSError):  # gone with its unit: the limit below still holds
            enter_cgroup(options.cgroup)
    if options.memory_limit is not None:
        # Private writable memory: what training allocates. Mapped weights are shared pages and do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (options.memory_limit, options.memory_limit))
    say = _own_standard_output()
    try:
        job = _read_job()
        say(_do(job, say, started=started))
    except EdgefoldError as error:
        say(Failed(blame=_blame(error), error=str(error)[:_MAX_ERROR_CHARS]))
        return 1
    except MemoryError:
        say(Failed(blame="engine", error="out of memory: raise trainer.memory_limit_mb or lower the batch size"))
        return 1
    return 0


def _own_standard_output() -> Say:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among our lines

    def say(message: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(plain(message)).encode() + b"\n")
            out.flush()

    return say


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A trainer process; started by edgefold, not by people.")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--parent", type=int, default=None, help="process id to die with")
    parser.add_argument("--memory-limit", type=int, default=None, help="bytes of private writable memory")
    parser.add_argument("--cgroup", type=Path, default=None, help="folder of the control group to enter")
    return parser.parse_args()


def _read_job() -> Job:
    line = sys.stdin.buffer.readline(MAX_LINE_BYTES + 1)
    try:
        message = json.loads(line)
        kinds: dict[object, type[Job]] = {
            "train": TrainJob,
            "evaluate": EvaluateJob,
            "check": CheckJob,
            "sum-step": SumStepJob,
        }
        job_type = kinds.get(message.get("kind"))
        if job_type is None:
            raise ConfigError(f"unknown job kind {str(message.get('kind'))[:64]!r}")
        return structure(job_type, message, lenient_floats=True)
    except (FieldError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"not a job: {error}") from error


def _do(job: Job, say: Say, *, started: float) -> object:
    # Read by the libraries when they load. numpy's BLAS would take a buffer for each core, for products that we never
    # ask it for; the tokenizers would use every core of the device for what is a moment on one.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if isinstance(job, SumStepJob):
        from edge_agent.trainer.sum_steps import take_step  # noqa: PLC0415 - numpy, and no runtime

        return take_step(job, started=started)
    os.environ["RAYON_NUM_THREADS"] = str(job.threads)
    try:
        from edge_agent.trainer import jobs  # noqa: PLC0415 - numpy and the runtime load after the limits are set
    except ImportError as error:  # not installed here, or its libraries do not fit into the memory limit
        why = str(error).strip().splitlines()[-1:]  # numpy explains itself over a page
        raise EngineError(f"the ML runtime cannot be loaded, for want of it or of memory: {' '.join(why)}") from error
    match job:
        case TrainJob():
            return jobs.train(job, say, started=started)
        case EvaluateJob():
            return jobs.evaluate(job, say, started=started)
        case CheckJob():
            return jobs.check(job, say, started=started)


def _blame(error: EdgefoldError) -> Blame:
    match error:
        case ConfigError() | StorageError():
            return "config"
        case BundleError():
            return "bundle"
        case UpdateError():
            return "update"
        case _:
            return "engine"


if __name__ == "__main__":
    sys.exit(main())
