"""The jobs that a trainer process is given, and what it answers: one JSON object a line over a pipe.

    in   one job                     {"kind": "train" | "evaluate" | "check" | "sum-step", ...}
    out  progress, any number        {"kind": "progress", ...}
    out  exactly one of              {"kind": "done", ...}  {"kind": "failed", "blame": ..., "error": ...}

Laws: vectors travel as files (encoded payloads, raw little-endian float32), never in JSON; whoever starts a trainer
owns the folder that it writes to. Three callers share this pipe: the agent trains, the aggregator evaluates, the
exporter checks a graph against PyTorch. That keeps one engine implementation and no import between the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from protocol.fields import Length, Pattern, Range
from protocol.plan import Optimizer, Plan  # noqa: TC001 - structure() resolves the annotations
from protocol.secure_sum.messages import SumPlan  # noqa: TC001 - as above
from protocol.sum_round import SumStepName  # noqa: TC001 - structure() resolves the annotations

__all__ = [
    "ANCHOR_FILE",
    "COMPARED_SCORES",
    "DELTA_FILE",
    "DIRECTORY_FILE",
    "FISHER_FILE",
    "KEPT_FILE",
    "MAX_LINE_BYTES",
    "PERSONAL_FILE",
    "REPLY_FILE",
    "RESIDUAL_FILE",
    "STATEMENT_FILE",
    "STATE_FILE",
    "UPDATE_FILE",
    "Blame",
    "CheckJob",
    "CheckResult",
    "EvaluateJob",
    "EvaluateResult",
    "Failed",
    "Job",
    "Progress",
    "SampleCharge",
    "SetResult",
    "SumStepJob",
    "SumStepResult",
    "TrainJob",
    "TrainResult",
]

# What two runtimes are compared by: of each task its first output (``models``); a runtime may give them in any order.
COMPARED_SCORES: Final = ("logits", "similarities", "embeddings", "forecasts", "losses")
MAX_LINE_BYTES: Final = 1_000_000  # the longest line is a check's list of losses
UPDATE_FILE: Final = "update.payload"
PERSONAL_FILE: Final = "personal.f32"  # local minus received, raw, never encoded
RESIDUAL_FILE: Final = "residual.f32"
KEPT_FILE: Final = "kept.f32"
ANCHOR_FILE: Final = "anchor.f32"  # the adapter at the end of a stretch of examples
FISHER_FILE: Final = "fisher.f32"  # how much each of its values mattered until then
DELTA_FILE: Final = "delta.f32"
STATE_FILE: Final = "state.sum"  # ``secure_sum.device_state.pack_state``
REPLY_FILE: Final = "reply.sum"  # what the device says; its signature, if it has one, is still zeros
STATEMENT_FILE: Final = "statement.sum"  # what that signature must be over; empty if there is none
DIRECTORY_FILE: Final = "directory.sum"  # ``secure_sum.stored.join_records`` of the neighbours' keys

_Path = Annotated[str, Length(1, 4096)]
_Threads = Annotated[int, Range(1, 256)]
_Engine = Annotated[str, Length(1, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCharge:
    """Where a training with ``plan.dp`` is counted before it begins, and what its device's owner allows."""

    folder: _Path  # with the record of the device
    task: Annotated[str, Length(1, 64)]
    training_id: Annotated[str, Length(32, 32), Pattern(r"[0-9a-f]*", "32 hex digits")]  # charged once
    max_epsilon: Annotated[float, Range(0.01, 1000)] | None = None  # of all trainings; None: count alone
    delta: Annotated[float, Range(1e-18, 0.01)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Train ``plan.epochs`` on ``data`` from ``adapter``; write the encoded delta and the new residual to ``out``.

    Where the plan's terms say that the device keeps something of its own, that is written too, as ``KEPT_FILE``; where
    its continual terms need a memory, ``ANCHOR_FILE`` and ``FISHER_FILE``.
    """

    kind: Literal["train"] = "train"
    bundle: _Path
    data: _Path
    out: _Path
    plan: Plan
    adapter: _Path | None = None  # an encoded payload; the bundle's initial adapter if absent
    residual: _Path | None = None  # raw float32: what earlier encodings rounded away
    kept: _Path | None = None  # raw float32 [n_params]: what the last accepted round of the task kept
    replay: _Path | None = None  # examples kept from before, as ``data``
    keep_delta: bool = False  # write the delta as ``PERSONAL_FILE`` too: it is to stay here
    memory: _Path | None = None  # a folder with ``ANCHOR_FILE`` and ``FISHER_FILE`` of the stretch before
    sum_clip: Annotated[float, Range(1e-12, 1e12)] | None = (
        None  # for a secure sum: write ``DELTA_FILE``, encode nothing
    )
    least_pass_s: Annotated[float, Range(0.0, 3600.0)] = 0.0  # each pass lasts at least so long: a slower device's pace
    sum_clips_norm: bool = False  # the clip is of the delta's L2 norm, and not of every value: noise is added to it
    sample_charge: SampleCharge | None = None  # set by an agent whose plan has ``dp``
    one_by_one: bool = False  # with ``plan.dp``: believe no graph of the bundle that says it keeps examples apart
    threads: _Threads = 1
    engine: _Engine = "portable"
    max_examples: Annotated[int, Range(1, 10**9)] = 1_000_000
    checkpoint: _Path | None = None  # a folder: where training stands, to go on after an interruption; none if absent
    checkpoint_every_s: Annotated[float, Range(0, 1e6)] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Measure ``adapter`` on each named set."""

    kind: Literal["evaluate"] = "evaluate"
    bundle: _Path
    sets: dict[Annotated[str, Length(1, 64)], _Path]
    adapter: _Path | None = None
    personal: _Path | None = None  # raw float32 [n_params], added to the adapter
    has_base_change: bool = False  # follows the adapter in its payload, as in work with ``terms.base_change``
    batch_size: Annotated[int, Range(1, 4096)] = 32
    max_tokens: Annotated[int, Range(1, 8192)] = 64
    threads: _Threads = 1
    engine: _Engine = "portable"
    max_examples: Annotated[int, Range(1, 10**9)] = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJob:
    """Take ``n_steps`` optimiser steps over given batches from given parameters, for comparison with a reference.

    ``batches`` is an .npz with arrays ``{step}/{input}``; ``out`` gets ``theta.f32`` and ``logits.npz``, whose array
    ``{step}`` has for that step's batch at the final parameters the first of ``COMPARED_SCORES`` that the task gives.
    """

    kind: Literal["check"] = "check"
    bundle: _Path
    batches: _Path
    theta: _Path
    n_steps: Annotated[int, Range(1, 10_000)]
    optimizer: Optimizer
    clip_grad_norm: Annotated[float, Range(1e-6, 1e9)] | None = None
    out: _Path
    threads: _Threads = 1
    engine: _Engine = "portable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStepJob:
    """Take one step of a secure sum; write ``STATE_FILE``, ``REPLY_FILE``, ``STATEMENT_FILE`` and, with the roster,
    ``DIRECTORY_FILE`` to ``out``.

    The device's signing key stays with the caller, who signs the statement: a trainer never sees it.
    """  # noqa: D205 - the files are what it does

    kind: Literal["sum-step"] = "sum-step"
    step: SumStepName
    plan: SumPlan
    device: Annotated[str, Length(1, 64)]
    out: _Path
    state: _Path | None = None  # after the step before; absent at the first
    message: _Path | None = None  # the body of a ``SumNext``
    directory: _Path | None = None  # as ``DIRECTORY_FILE``; absent before the roster
    root: _Path | None = None  # the fleet's root certificate, PEM: neighbours' certificates must come from it
    peers: _Path | None = None  # or a registry in TOML that the device's owner wrote
    vector: _Path | None = None  # raw float32, for the masked input
    weight: Annotated[int, Range(1, 10**9)] = 1


Job: TypeAlias = TrainJob | EvaluateJob | CheckJob | SumStepJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is; ``loss`` is the mean since the last report."""

    kind: Literal["progress"] = "progress"
    step: int
    n_steps: int
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training job; times in seconds of wall clock, memory is the process's peak resident set."""

    kind: Literal["done"] = "done"
    n_examples: int
    n_steps: int
    loss: float  # mean over the last epoch
    train_s: float  # in steps alone
    first_step_s: float = 0.0  # of which this process's first, in which the engine loads; 0: not measured
    wall_s: float  # from the process's start
    peak_memory_bytes: int
    update_norm: float  # L2 of the delta before encoding
    encoded_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """One evaluation set; ``loss`` is the mean cross entropy of what was scored."""

    n_examples: int  # what was scored: examples; in causal-lm, which has a score for each, predicted tokens
    n_correct: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """A finished evaluation."""

    kind: Literal["done"] = "done"
    sets: dict[str, SetResult]
    wall_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A finished check; ``losses`` are before each step."""

    kind: Literal["done"] = "done"
    losses: tuple[float, ...]
    train_s: float
    wall_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStepResult:
    """A step that was taken; what it made is in files."""

    kind: Literal["done"] = "done"
    step: SumStepName
    wall_s: float
    peak_memory_bytes: int


Blame: TypeAlias = Literal["config", "bundle", "update", "engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why a job was not done, and by whose fault: the caller translates ``blame`` into its own error."""

    kind: Literal["failed"] = "failed"
    blame: Blame
    error: str
