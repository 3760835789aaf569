"""How far a training is, durable: parameters, the optimiser's moments, the step, the random state of the epoch.

Laws: what goes on from a checkpoint gives the same bytes as what was never interrupted; a checkpoint of any other job
(plan, adapter, bundle, data, engine) is not used; a damaged one is as none. Up to three vectors of the adapter's length
are written each time. Training with ``dp`` has none and begins anew: what is done again after a checkpoint draws new
noise from the same point, and whoever reads both states off the disk sees more than was charged.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np

from edge_agent.adapters.example_views import file_of
from host.arrays import load_npz
from host.durable import make_folder, open_plain, remove, sweep, write_bytes
from protocol.errors import StorageError
from protocol.fields import Length, Range, plain, structure
from protocol.jobs import ANCHOR_FILE, FISHER_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_agent.trainer.optimizers import FlatOptimizer
    from protocol.jobs import TrainJob

__all__ = ["Checkpoints", "Progressed"]

_FILE: Final = "training.npz"
_CHUNK_BYTES: Final = 1 << 20
_MAX_LOSSES: Final = 10**7


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Where an interrupted training stands.

    Attributes:
        job: digest of the job that it belongs to.
        epoch: which epoch, from 0.
        n_batches: how many of that epoch's batches were taken.
        n_steps: in all epochs.
        train_s: in steps, before the interruption.
        rng: state of numpy's generator at the epoch's beginning, as JSON.
        engine: where an engine with terms of its own stands (``continual.remembering``), as JSON.
        optimizer_steps: of the optimiser.
    """

    job: Annotated[str, Length(64, 64)]
    epoch: Annotated[int, Range(0, 10**6)] = 0
    n_batches: Annotated[int, Range(0, 10**9)] = 0
    n_steps: Annotated[int, Range(0, 10**9)] = 0
    train_s: Annotated[float, Range(0, 1e9)] = 0.0
    rng: Annotated[str, Length(0, 4096)] = ""
    engine: Annotated[str, Length(0, 4096)] = ""
    optimizer_steps: Annotated[int, Range(0, 10**9)] = 0


class Checkpoints:
    """The checkpoint of one job; without a folder nothing is kept."""

    def __init__(self, job: TrainJob, bundle_id: str) -> None:
        """Use the job's folder, and remove what an interrupted writing left there."""
        self._folder = None if job.checkpoint is None or job.plan.dp is not None else Path(job.checkpoint)
        self._every_s, self._saved_s = job.checkpoint_every_s, time.monotonic()
        self.job = ""
        if self._folder is not None:
            self.job = _digest(job, bundle_id)
            sweep(make_folder(self._folder))

    def load(
        self,
        theta: NDArray[np.float32],
        optimizer: FlatOptimizer,
        rng: np.random.Generator,
        *,
        resume_engine: Callable[[str], None] | None = None,
    ) -> tuple[Progressed, list[float]]:
        """Set ``theta`` [n_params], ``optimizer`` and ``rng`` to where this job stood; the beginning if it never did.

        ``resume_engine`` does the same for an engine with a state of its own.

        Returns: how far it was, and the losses of the epoch's batches.
        """
        begin = Progressed(job=self.job or "0" * 64), list[float]()
        if self._folder is None or not (self._folder / _FILE).is_file():
            return begin
        try:
            arrays = load_npz(self._folder / _FILE)
            said = structure(Progressed, json.loads(arrays["progressed"].tobytes()), lenient_floats=True)
            moments = [arrays[f"moment{i}"] for i in range(len(optimizer.moments))]
            shapes = [(one.shape, one.dtype) for one in (theta, *optimizer.moments)]
            is_ours = said.job == self.job and [(one.shape, one.dtype) for one in (arrays["theta"], *moments)] == shapes
            if not is_ours:
                return begin
            of_batches = np.random.default_rng()
            of_batches.bit_generator.state = json.loads(said.rng)
            if resume_engine is not None:
                resume_engine(said.engine)
            rng.bit_generator.state = of_batches.bit_generator.state
        except (StorageError, KeyError, ValueError, TypeError):
            return begin
        theta[:] = arrays["theta"]
        optimizer.restore(moments, said.optimizer_steps)
        return said, [float(one) for one in arrays["losses"][:_MAX_LOSSES]]

    def save_if_due(
        self, so_far: Progressed, losses: list[float], theta: NDArray[np.float32], optimizer: FlatOptimizer
    ) -> None:
        """Keep where training stands, if the last time is long enough ago."""
        if self._folder is None or time.monotonic() - self._saved_s < self._every_s:
            return
        arrays: dict[str, Any] = {f"moment{i}": one for i, one in enumerate(optimizer.moments)}
        file = io.BytesIO()
        text = json.dumps(plain(so_far)).encode()
        np.savez(
            file,
            progressed=np.frombuffer(text, np.uint8),
            theta=theta,
            losses=np.array(losses, np.float64),
            **arrays,
        )
        write_bytes(self._folder / _FILE, file.getvalue())
        self._saved_s = time.monotonic()

    def forget(self) -> None:
        """Remove it: the training is over."""
        if self._folder is not None:
            remove(self._folder / _FILE)


def _digest(job: TrainJob, bundle_id: str) -> str:
    """Return what tells this job's training from any other's."""
    files = [None if path is None else _file_digest(file_of(Path(path))) for path in (job.data, job.adapter, job.kept)]
    if job.replay is not None:
        files.append(_file_digest(file_of(Path(job.replay))))
    if job.memory is not None:
        files += [_file_digest(Path(job.memory) / name) for name in (ANCHOR_FILE, FISHER_FILE)]
    facts = [plain(job.plan), bundle_id, files, job.engine, job.threads, job.max_examples]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
