"""Does the three jobs of ``protocol.jobs`` with an engine: train, evaluate, check.

Laws: everything random comes from the plan's seed, so the same job gives the same bytes, except where
the plan has ``dp``: its coins and noise must be secret; a loss or gradient that is not
finite ends the job before anything of it is written.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from edge_agent.adapters.sample_record import SampleRecord
from edge_agent.trainer.accumulation import loss_and_gradient
from edge_agent.trainer.batches import batches_in_order, shuffled_batches
from edge_agent.trainer.checkpoints import Checkpoints, Progressed
from edge_agent.trainer.continual.remembering import Remembering, load_memory, save_memory
from edge_agent.trainer.datasets import open_dataset
from edge_agent.trainer.dropped import DroppedEngine
from edge_agent.trainer.engines import PORTABLE, open_engine
from edge_agent.trainer.example_gradients import InOneGraph, OneByOne
from edge_agent.trainer.local_terms import LocalTerms
from edge_agent.trainer.optimizers import clip_norm, l2_norm, make_optimizer
from edge_agent.trainer.paced import PacedEngine
from edge_agent.trainer.private_steps import PrivateEpochs, refuse_contrastive
from edge_agent.trainer.received import Received, received
from edge_agent.trainer.scores import Scores, judge
from host.arrays import load_npz, load_vector, save_vector
from host.bundle_folder import Bundle, open_bundle
from host.durable import read_bytes, write_bytes
from host.memory import peak_bytes
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.bundle import ADAPTER
from protocol.errors import BundleError, ConfigError, EngineError
from protocol.jobs import (
    COMPARED_SCORES,
    DELTA_FILE,
    KEPT_FILE,
    PERSONAL_FILE,
    RESIDUAL_FILE,
    UPDATE_FILE,
    CheckJob,
    CheckResult,
    EvaluateJob,
    EvaluateResult,
    Progress,
    SetResult,
    TrainJob,
    TrainResult,
)
from protocol.plan import DeviceTerms, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Dataset
    from edge_agent.trainer.engines import Engine, ExampleEngine
    from edge_agent.trainer.example_gradients import ExampleGradients
    from protocol.plan import SampleDp

    _Gradients = Engine | Remembering
    Report = Callable[[Progress], None]

__all__ = ["check", "evaluate", "train"]

_REPORT_EVERY_S: Final = 0.5  # often enough for a person who watches, rare enough for a pipe


def train(job: TrainJob, report: Report, *, started: float) -> TrainResult:
    """Train on local examples and write the encoded delta and the residual.

    Raises:
        BundleError, ConfigError, UpdateError, EngineError: by blame, see ``protocol.errors``.
    """
    bundle = open_bundle(Path(job.bundle))
    data = open_dataset(bundle, Path(job.data), max_tokens=job.plan.max_tokens, max_examples=job.max_examples)
    n_params, dp = bundle.layout.n_params, job.plan.dp
    if dp is not None and job.plan.terms is not None:
        raise ConfigError("plan: sample-level privacy does not go with a strategy's terms yet")
    if dp is not None:
        refuse_contrastive(bundle.manifest.task.kind)
    given = _given(bundle, job.adapter, job.plan.terms)
    kept = None if job.kept is None else _vector(Path(job.kept), n_params)
    terms = LocalTerms(job.plan, bundle.layout, received=given.adapter, kept=kept)
    # A residual may be of training without dp, and would then tell of examples what no noise covers.
    residual = _residual(None if dp is not None else job.residual, n_params)
    engine = open_engine(job.engine, bundle.folder, bundle.manifest, threads=job.threads, base=given.base)
    if bundle.manifest.dropout is not None:
        engine = DroppedEngine(engine=engine, facts=bundle.manifest.dropout, seed=job.plan.seed)
    checkpoints = Checkpoints(job, bundle.id)
    if job.least_pass_s > 0:
        engine = PacedEngine(engine=engine, least_pass_s=job.least_pass_s)
    if dp is not None and job.sample_charge is not None:  # last of all that may fail before the first step
        record = SampleRecord(Path(job.sample_charge.folder))
        record.charge(job.sample_charge, job.plan, n_examples=len(data), data=Path(job.data))
    epochs: _Epochs | PrivateEpochs
    remembering = _remembering(job, bundle, engine)
    if dp is None:
        epochs = _Epochs(job.plan, data, bundle.manifest.task.kind, report)
        theta = epochs.run(engine if remembering is None else remembering, terms, checkpoints)
    else:
        epochs = PrivateEpochs(job.plan, dp, data, report)
        theta = epochs.run(_single_examples(job, dp, bundle, engine, data), terms.start)
    delta = terms.delta(theta, residual)  # [n_sent]
    out = Path(job.out)
    if remembering is not None and job.plan.continual is not None and job.plan.continual.needs_memory:
        save_memory(out, remembering.consolidate(theta, data))
    if job.keep_delta:
        save_vector(out / PERSONAL_FILE, theta - terms.start)
    if job.sum_clip is not None:
        n_bytes = _write_bounded(out, delta, job.sum_clip, is_norm=job.sum_clips_norm)
    else:
        n_bytes = _write_update(out, terms, theta, residual, n_steps=epochs.n_steps)
    checkpoints.forget()
    return TrainResult(
        n_examples=len(data),
        n_steps=epochs.n_steps,
        loss=epochs.last_loss,
        train_s=epochs.train_s,
        first_step_s=0.0 if isinstance(epochs, PrivateEpochs) else epochs.first_step_s,
        wall_s=time.monotonic() - started,
        peak_memory_bytes=peak_bytes(),
        update_norm=l2_norm(delta),
        encoded_bytes=n_bytes,
    )


def evaluate(job: EvaluateJob, report: Report, *, started: float) -> EvaluateResult:
    """Measure accuracy and mean loss on each set: by example, or by token in causal-lm.

    Raises:
        BundleError, ConfigError, UpdateError, EngineError: by blame, see ``protocol.errors``.
    """
    bundle = open_bundle(Path(job.bundle))
    given = _given(bundle, job.adapter, DeviceTerms(base_change=job.has_base_change or None))
    theta = given.adapter
    if job.personal is not None:
        theta += _vector(Path(job.personal), bundle.layout.n_params)
    engine = open_engine(job.engine, bundle.folder, bundle.manifest, threads=job.threads, base=given.base)
    results = {}
    for done, (name, path) in enumerate(job.sets.items()):
        report(Progress(step=done, n_steps=len(job.sets)))
        data = open_dataset(bundle, Path(path), max_tokens=job.max_tokens, max_examples=job.max_examples)
        total = Scores()
        for batch in batches_in_order(data, batch_size=job.batch_size):
            total += judge(engine.scores(theta, batch), batch)
        if not total.n_scored:
            raise ConfigError(f"set {name}: every text has a single token, so there is nothing to predict")
        if not math.isfinite(total.loss):
            raise EngineError(f"set {name}: the loss is not finite; the adapter has diverged")
        mean = total.loss / total.n_scored
        results[name] = SetResult(n_examples=total.n_scored, n_correct=total.n_correct, loss=mean)
    return EvaluateResult(sets=results, wall_s=time.monotonic() - started, peak_memory_bytes=peak_bytes())


def check(job: CheckJob, _report: Report, *, started: float) -> CheckResult:
    """Repeat given steps for comparison with a reference; see ``CheckJob``.

    Raises:
        BundleError, ConfigError, StorageError, EngineError: by blame, see ``protocol.errors``.
    """
    bundle = open_bundle(Path(job.bundle))
    arrays = load_npz(Path(job.batches))
    theta = _vector(Path(job.theta), bundle.layout.n_params)
    engine = open_engine(job.engine, bundle.folder, bundle.manifest, threads=job.threads)
    batches = [_nth_batch(arrays, step) for step in range(job.n_steps)]
    optimizer = make_optimizer(job.optimizer, theta.size)
    losses, train_s = [], 0.0
    for step, batch in enumerate(batches):
        began = time.monotonic()
        loss, gradient = engine.loss_and_gradient(theta, batch)
        _refuse_divergence(loss, gradient, step)
        optimizer.step(theta, clip_norm(gradient, job.clip_grad_norm))
        train_s += time.monotonic() - began
        losses.append(loss)
    save_vector(Path(job.out) / "theta.f32", theta)
    logits: dict[str, Any] = {str(i): _compared(engine.scores(theta, batch)) for i, batch in enumerate(batches)}
    np.savez(Path(job.out) / "logits.npz", **logits)
    return CheckResult(
        losses=tuple(losses),
        train_s=train_s,
        wall_s=time.monotonic() - started,
        peak_memory_bytes=peak_bytes(),
    )


def _write_bounded(out: Path, delta: NDArray[np.float32], sum_clip: float, *, is_norm: bool) -> int:
    """Write what the agent masks; return 0, since the secure sum quantises it and nothing is encoded."""
    # As a whole, so that its direction stays: a secure sum refuses values beyond its clip.
    # With noise it is the norm that the clip bounds; the last digit, and rounding, are clipped in levels.
    largest = l2_norm(delta) if is_norm else float(np.abs(delta).max())
    scale = min(1.0, sum_clip / largest) if largest > 0 else 1.0
    bounded = np.clip(delta * np.float32(scale), -np.float32(sum_clip), np.float32(sum_clip))
    save_vector(out / DELTA_FILE, np.nextafter(bounded, np.float32(0)) if scale < 1 else bounded)
    return 0


def _write_update(
    out: Path, terms: LocalTerms, theta: NDArray[np.float32], residual: NDArray[np.float32], *, n_steps: int
) -> int:
    """Write what the agent seals, and what it keeps; return the encoded length."""
    payload, left = terms.encode(theta, residual, n_steps=n_steps)
    write_bytes(out / UPDATE_FILE, payload)
    save_vector(out / RESIDUAL_FILE, left)
    if (keeps := terms.keeps(theta)) is not None:
        save_vector(out / KEPT_FILE, keeps)
    return len(payload)


class _Epochs:
    """The local epochs of one plan over one device's examples; keeps the figures that a result reports."""

    def __init__(self, plan: Plan, data: Dataset, kind: str, report: Report) -> None:
        self._plan, self._data, self._kind, self._report = plan, data, kind, report
        self.n_steps, self.train_s, self.first_step_s, self.last_loss = 0, 0.0, 0.0, 0.0

    def run(self, engine: _Gradients, terms: LocalTerms, checkpoints: Checkpoints) -> NDArray[np.float32]:
        """Return the local adapter, float32 [n_params]; begins where ``checkpoints`` stands."""
        plan, theta = self._plan, terms.start.copy()
        rng = np.random.default_rng(plan.seed)
        optimizer = make_optimizer(plan.optimizer, terms.n_trained)
        n_steps = plan.epochs * math.ceil(len(self._data) / plan.batch_size)
        reported = time.monotonic()
        memory = engine if isinstance(engine, Remembering) else None
        resume = None if memory is None else memory.resume
        begin, losses = checkpoints.load(theta, optimizer, rng, resume_engine=resume)
        self.n_steps, self.train_s, n_taken = begin.n_steps, begin.train_s, begin.n_batches
        for epoch in range(begin.epoch, plan.epochs):
            epoch_rng = json.dumps(rng.bit_generator.state)
            batches = shuffled_batches(self._data, batch_size=plan.batch_size, rng=rng)
            for batch in itertools.islice(batches, n_taken, None):
                began = time.monotonic()
                loss, gradient = loss_and_gradient(
                    engine.loss_and_gradient, theta, batch, kind=self._kind, micro_batch=plan.micro_batch
                )
                _refuse_divergence(loss, gradient, self.n_steps)
                terms.step(optimizer, theta, gradient)
                now = time.monotonic()
                self.train_s += now - began
                self.first_step_s = self.first_step_s or now - began
                self.n_steps += 1
                losses.append(loss)
                if now - reported > _REPORT_EVERY_S:
                    self._report(Progress(step=self.n_steps, n_steps=n_steps, loss=loss))
                    reported = now
                so_far = Progressed(
                    job=checkpoints.job,
                    epoch=epoch,
                    n_batches=len(losses),
                    n_steps=self.n_steps,
                    train_s=self.train_s,
                    rng=epoch_rng,
                    engine="" if memory is None else memory.state(),
                    optimizer_steps=optimizer.n_steps,
                )
                checkpoints.save_if_due(so_far, losses, theta, optimizer)
            self.last_loss = float(np.mean(losses))
            losses, n_taken = [], 0
        return theta


def _single_examples(job: TrainJob, dp: SampleDp, bundle: Bundle, engine: Engine, data: Dataset) -> ExampleGradients:
    """Return how the gradients of single examples are found: by the bundle's graph for it, if it is to be believed."""
    alone = OneByOne(engine, data, clip=dp.clip)
    has_graph = bundle.manifest.engines[job.engine].per_example is not None and bundle.manifest.dropout is None
    if job.one_by_one or not has_graph or job.engine != PORTABLE:
        return alone
    at_once = job.plan.micro_batch or job.plan.batch_size
    return InOneGraph(
        cast("ExampleEngine", engine), alone, data, clip=dp.clip, batch_size=job.plan.batch_size, at_once=at_once
    )


def _remembering(job: TrainJob, bundle: Bundle, engine: Engine) -> Remembering | None:
    """Return the engine with the plan's terms against forgetting, None if it has none."""
    continual, plan = job.plan.continual, job.plan
    if continual is None:
        return None
    if plan.dp is not None:
        raise ConfigError("plan: sample-level privacy does not go with continual terms: kept examples count too")
    remembering = Remembering(engine, plan, continual)
    if job.replay is not None:
        kept = open_dataset(bundle, Path(job.replay), max_tokens=plan.max_tokens, max_examples=job.max_examples)
        remembering.replay(kept)
    if job.memory is not None:
        remembering.recall(load_memory(Path(job.memory), bundle.layout.n_params))
    return remembering


def _refuse_divergence(loss: float, gradient: NDArray[np.float32], step: int) -> None:
    if not (math.isfinite(loss) and np.isfinite(gradient).all()):
        raise EngineError(f"step {step}: loss or gradient is not finite; lower the learning rate or clip the gradient")


def _given(bundle: Bundle, path: str | None, terms: DeviceTerms | None) -> Received:
    if path is None:
        initial = load_vector(bundle.path(ADAPTER), n_values=bundle.layout.n_params)
        n_controls = initial.size if terms is not None and terms.has_controls else 0
        return Received(adapter=np.pad(initial, (0, n_controls)))  # before the first round every one is zero
    try:
        payload = read_bytes(Path(path), max_bytes=MAX_MESSAGE_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such adapter") from error
    return received(bundle, payload, terms)


def _compared(scores: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    for name in COMPARED_SCORES:
        if name in scores:
            return scores[name]
    raise BundleError(f"the evaluation graph gives {', '.join(scores)}, none of {', '.join(COMPARED_SCORES)}")


def _residual(path: str | None, n_params: int) -> NDArray[np.float32]:
    return np.zeros(n_params, np.float32) if path is None else _vector(Path(path), n_params)


def _vector(path: Path, n_values: int) -> NDArray[np.float32]:
    try:
        return load_vector(path, n_values=n_values)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error


def _nth_batch(arrays: dict[str, NDArray[np.int64]], step: int) -> dict[str, NDArray[np.int64]]:
    prefix = f"{step}/"
    batch = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if not batch:
        raise ConfigError(f"the file of batches has none for step {step}")
    return batch
