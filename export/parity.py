"""The parity check: the same optimiser steps by PyTorch and by the runtime that devices use, compared.

Laws: the runtime's side goes through the trainer process, the very pipe that devices use; loss, parameters and logits
are all compared, since a wrong epsilon once left the loss right to 1e-7 and the parameters NaN. No torch here:
``reference.py`` has that side.
"""

import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.problems import Problem
from host.arrays import load_npz, load_vector, save_vector
from host.trainer_process import run_job
from protocol.errors import EngineError
from protocol.jobs import CheckJob, CheckResult
from protocol.plan import Optimizer

__all__ = [
    "CLIP_GRAD_NORM",
    "TOLERANCE",
    "Apart",
    "Errors",
    "Outcome",
    "Report",
    "compare",
    "optimizer_of",
    "run_engine",
]

CLIP_GRAD_NORM = 1.0
THREADS = 2
DEADLINE_S = 600.0  # 20 steps take seconds on a laptop; an emulated or loaded machine may need minutes

Errors = tuple[float, float, float]  # of the loss, the update and the logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far the two sides may be apart."""

    # Measured: 2e-7 (MiniLM), rounding alone. A wrong formula shows at 1e-3 and above within a few steps.
    loss: float = 1e-4
    # |theta_runtime - theta_torch| / |theta_torch - theta_0|. Measured 1e-5; AdamW turns a gradient's sign into a full
    # step, so rounding near zero costs more than it does in the loss. The project's promise is 1e-3.
    update: float = 1e-3
    # Of the largest logit. The logits are those of the final parameters: both errors once more through the model.
    logits: float = 1e-3


TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one side made of a problem."""

    losses: tuple[float, ...]
    theta: NDArray[np.float32]  # [n_params] after the last step
    logits: tuple[NDArray[np.float32], ...]  # of every batch at the final theta: the first output of the evaluation


@dataclass(frozen=True, slots=True)
class Apart:
    """How far one engine is from PyTorch; see ``Tolerance`` for what is divided by what."""

    loss: float
    update: float
    logits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``parity.json``: what was compared and how far apart the sides were."""

    format: int = 1
    reference: str
    steps: int
    seed: int
    vocabulary: int | None  # None: no text
    shapes: tuple[tuple[int, ...], ...]
    optimizer: dict[str, object]
    clip_grad_norm: float
    losses: tuple[float, ...]  # the reference's; ``verify`` compares the first of them
    max_relative_loss_error: float
    update_error: float
    logits_error: float
    engines: dict[str, Apart] = field(default_factory=dict)  # the others'; those above are the portable engine's
    per_example: dict[str, float] | None = None  # of the graph of single examples, to PyTorch's batches of one
    tolerance: dict[str, float]

    @property
    def passed(self) -> bool:
        """Return whether every error is a number within its tolerance."""
        limits = (TOLERANCE.loss, TOLERANCE.update, TOLERANCE.logits)
        return all(
            math.isfinite(error) and error <= limit
            for apart in self.by_engine.values()
            for error, limit in zip((apart.loss, apart.update, apart.logits), limits, strict=True)
        )

    @property
    def by_engine(self) -> dict[str, Apart]:
        """Return the errors of each engine, the portable one first."""
        portable = Apart(self.max_relative_loss_error, self.update_error, self.logits_error)
        return {"portable": portable, **self.engines}

    def to_bytes(self) -> bytes:
        """Return the bytes of ``parity.json``."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"


def optimizer_of(problem: Problem) -> Optimizer:
    """Return the optimiser that both sides use."""
    return Optimizer(
        name="adamw",
        learning_rate=problem.learning_rate,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        weight_decay=0.01,
    )


def run_engine(bundle: Path, problem: Problem, *, engine: str = "portable") -> Outcome:
    """Return what a trainer process makes of the problem with the engine's graphs in ``bundle``.

    Raises:
        BundleError, EngineError: the runtime refuses the graphs, or fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgefold-parity-") as name:
        folder = Path(name)
        arrays = {f"{step}/{key}": value for step, batch in enumerate(problem.batches) for key, value in batch.items()}
        np.savez(folder / "batches.npz", allow_pickle=False, **arrays)
        save_vector(folder / "theta_0.f32", problem.theta)
        job = CheckJob(
            bundle=str(bundle),
            batches=str(folder / "batches.npz"),
            theta=str(folder / "theta_0.f32"),
            n_steps=len(problem.batches),
            optimizer=optimizer_of(problem),
            clip_grad_norm=CLIP_GRAD_NORM,
            threads=THREADS,
            engine=engine,
            out=str(folder),
        )
        result: CheckResult = run_job(job, deadline_s=DEADLINE_S)
        logits = load_npz(folder / "logits.npz")
        theta = load_vector(folder / "theta.f32", n_values=problem.theta.size)
    if len(result.losses) != len(problem.batches):
        message = f"the trainer answered {len(result.losses)} losses for {len(problem.batches)} steps"
        raise EngineError(message)
    return Outcome(losses=result.losses, theta=theta, logits=tuple(logits[str(i)] for i in range(len(result.losses))))


def compare(problem: Problem, expected: Outcome, actual: Outcome) -> Errors:
    """Return the largest relative loss error, the update error and the logits' error; NaN if a side is not finite."""
    loss = _worst(abs(e - a) / abs(e) for e, a in zip(expected.losses, actual.losses, strict=True))
    moved = expected.theta.astype(np.float64) - problem.theta
    apart = actual.theta.astype(np.float64) - expected.theta
    update = float(np.linalg.norm(apart) / np.linalg.norm(moved))
    largest = max(float(np.abs(e).max()) for e in expected.logits)
    pairs = zip(expected.logits, actual.logits, strict=True)
    return loss, update, _worst(float(np.abs(e - a).max()) / largest for e, a in pairs)


def _worst(errors: Iterable[float]) -> float:
    """Return the largest error; NaN if any is NaN, which ``max`` would hide."""
    values = np.fromiter(errors, np.float64)
    return float(values.max()) if np.isfinite(values).all() else math.nan
