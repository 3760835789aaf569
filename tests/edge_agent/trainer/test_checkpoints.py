"""An interrupted training goes on from its checkpoint and ends at the very bytes of one that was not interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.trainer.checkpoints import Checkpoints
from edge_agent.trainer.continual.elastic import Memory
from edge_agent.trainer.continual.remembering import Remembering
from edge_agent.trainer.jobs import _Epochs
from edge_agent.trainer.local_terms import LocalTerms
from protocol.continual import ContinualTerms
from protocol.jobs import ANCHOR_FILE, FISHER_FILE, TrainJob
from protocol.layout import Layout, TensorSlot
from protocol.plan import Codec, Optimizer, Plan, SampleDp

if TYPE_CHECKING:
    from pathlib import Path

N_PARAMS, N_EXAMPLES, STEPS = 12, 22, 18  # 3 epochs of 6 batches
LAYOUT = Layout(tensors=(TensorSlot(name="head", shape=(N_PARAMS,), offset=0, role="head"),))


class Examples:
    """Points of a regression."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.x = rng.normal(size=(N_EXAMPLES, N_PARAMS)).astype(np.float32)
        self.lengths = rng.integers(1, 9, N_EXAMPLES)

    def __len__(self) -> int:
        return N_EXAMPLES

    def batch(self, rows: Any) -> dict[str, Any]:
        return {"x": self.x[rows], "labels": np.zeros(len(rows), np.int64)}


class PowerCut(Exception):  # noqa: N818 - not an error of ours
    """The trainer is gone."""


class Engine:
    """Least squares, until the power is cut."""

    def __init__(self, cut_after: int | None = None) -> None:
        self.left, self.n_steps = cut_after, 0

    def loss_and_gradient(self, theta: Any, batch: dict[str, Any]) -> tuple[float, Any]:
        if self.left == self.n_steps:
            raise PowerCut
        self.n_steps += 1
        error = batch["x"] @ theta - 1
        return float(np.square(error).mean()), (batch["x"].T @ error / len(error)).astype(np.float32)


def make_job(folder: Path, plan: Plan, **changes: Any) -> TrainJob:
    data = folder / "data.jsonl"
    if not data.exists():
        data.write_text("examples")
    return TrainJob(
        bundle="b",
        data=str(data),
        out=str(folder),
        plan=plan,
        checkpoint=str(folder / "check"),
        checkpoint_every_s=0,
        **changes,
    )


def train(job: TrainJob, engine: Engine | Remembering) -> tuple[bytes, _Epochs]:
    received = np.linspace(-1, 1, N_PARAMS).astype(np.float32)
    terms = LocalTerms(job.plan, LAYOUT, received=received, kept=None)
    epochs = _Epochs(job.plan, Examples(), "forecasting", lambda _: None)  # type: ignore[arg-type]  # what an epoch needs
    theta = epochs.run(engine, terms, Checkpoints(job, "bundle"))
    return theta.tobytes(), epochs


@pytest.mark.parametrize("optimizer", [Optimizer(), Optimizer(name="sgd", learning_rate=0.1, beta1=0.9)])
@pytest.mark.parametrize("cut", [1, 5, 6, 7, 12, 17])
def test_what_goes_on_ends_at_the_same_bytes(tmp_path: Path, optimizer: Optimizer, cut: int) -> None:
    plan = Plan(optimizer=optimizer, codec=Codec(), epochs=3, batch_size=4, seed=3)
    whole, told = train(replace(make_job(tmp_path, plan), checkpoint=None), Engine())
    job = make_job(tmp_path, plan)
    with pytest.raises(PowerCut):
        train(job, Engine(cut_after=cut))
    engine = Engine()
    resumed, told_again = train(job, engine)
    assert resumed == whole
    assert engine.n_steps == STEPS - cut
    assert (told_again.n_steps, told_again.last_loss) == (told.n_steps, told.last_loss) == (STEPS, told.last_loss)
    assert 0 < told_again.first_step_s <= told_again.train_s


def test_a_training_that_is_cut_again_and_again_ends_at_the_same_bytes(tmp_path: Path) -> None:
    plan = Plan(optimizer=Optimizer(), codec=Codec(), epochs=3, batch_size=4)
    whole, _ = train(replace(make_job(tmp_path, plan), checkpoint=None), Engine())
    job, n_cuts = make_job(tmp_path, plan), 0
    while True:
        try:
            resumed, _ = train(job, Engine(cut_after=4))
            break
        except PowerCut:
            n_cuts += 1
    assert resumed == whole
    assert n_cuts == STEPS // 4


def test_a_checkpoint_of_another_job_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    plan = Plan(optimizer=Optimizer(), codec=Codec(), epochs=3, batch_size=4)
    job = make_job(tmp_path, plan)
    with pytest.raises(PowerCut):
        train(job, Engine(cut_after=7))
    kept = (tmp_path / "check" / "training.npz").read_bytes()

    def n_steps(job: TrainJob, data: bytes = kept) -> int:
        (tmp_path / "check" / "training.npz").write_bytes(data)
        engine = Engine()
        train(job, engine)
        return engine.n_steps

    assert n_steps(job) == STEPS - 7
    assert n_steps(replace(job, plan=replace(plan, seed=9))) == STEPS
    assert n_steps(replace(job, engine="litert")) == STEPS
    for data in (b"", kept[:200], kept[:-7], b"x" * len(kept)):
        assert n_steps(job, data) == STEPS
    (tmp_path / "data.jsonl").write_text("other examples")
    assert n_steps(job) == STEPS


class Labelled(Engine):
    """Least squares against labels, with scores to draw labels from."""

    def loss_and_gradient(self, theta: Any, batch: dict[str, Any]) -> tuple[float, Any]:
        loss, _ = super().loss_and_gradient(theta, batch)
        error = batch["x"] @ theta - batch["labels"]
        return loss, (batch["x"].T @ error / len(error)).astype(np.float32)

    def scores(self, theta: Any, batch: dict[str, Any]) -> dict[str, Any]:
        said = batch["x"] @ theta
        return {"logits": np.stack([said, -said], axis=1).astype(np.float32)}


def remembering(plan: Plan, engine: Labelled) -> Remembering:
    """Return the engine of a round that replays, holds on and stays close to what was said before."""
    assert plan.continual is not None
    one = Remembering(engine, plan, plan.continual)  # type: ignore[arg-type]  # what a round needs of an engine
    one.replay(Examples())  # type: ignore[arg-type]  # likewise
    ramp = np.linspace(0, 1, N_PARAMS).astype(np.float32)
    one.recall(Memory(anchor=ramp, fisher=ramp[::-1].copy()))
    return one


@pytest.mark.parametrize("cut", [3, 10, 20, 47])  # passes: three a step
def test_a_round_with_terms_against_forgetting_goes_on_to_the_same_bytes(tmp_path: Path, cut: int) -> None:
    terms = ContinualTerms(replay_fraction=0.5, ewc_strength=0.1, lwf_weight=0.5)
    plan = Plan(optimizer=Optimizer(), codec=Codec(), epochs=3, batch_size=4, seed=3, continual=terms)
    whole, _ = train(replace(make_job(tmp_path, plan), checkpoint=None), remembering(plan, Labelled()))
    job = make_job(tmp_path, plan)
    with pytest.raises(PowerCut):
        train(job, remembering(plan, Labelled(cut_after=cut)))
    engine = Labelled()
    resumed, _ = train(job, remembering(plan, engine))
    assert resumed == whole
    assert engine.n_steps == 3 * (STEPS - cut // 3)


def test_a_checkpoint_without_the_terms_state_or_of_another_memory_is_not_used(tmp_path: Path) -> None:
    terms = ContinualTerms(replay_fraction=0.5)
    plan = Plan(optimizer=Optimizer(), codec=Codec(), epochs=3, batch_size=4, continual=terms)
    folder = tmp_path / "memory"
    folder.mkdir()
    for name in (ANCHOR_FILE, FISHER_FILE):
        (folder / name).write_bytes(b"1")
    job = make_job(tmp_path, plan, replay=str(tmp_path / "data.jsonl"), memory=str(folder))
    with pytest.raises(PowerCut):
        train(job, Labelled(cut_after=7))  # an engine that leaves no state
    engine = Labelled()
    train(job, remembering(plan, engine))
    assert engine.n_steps == 3 * STEPS - STEPS  # replay alone: two passes a step, from the beginning
    before = Checkpoints(job, "bundle").job
    (folder / ANCHOR_FILE).write_bytes(b"2")
    assert Checkpoints(job, "bundle").job != before


def test_secret_coins_are_never_written(tmp_path: Path) -> None:
    dp = SampleDp(noise_multiplier=1.0, clip=1.0)
    job = make_job(tmp_path, Plan(optimizer=Optimizer(), codec=Codec(), dp=dp))
    Checkpoints(job, "bundle").forget()
    assert not (tmp_path / "check").exists()
