"""The ways to learn from a stream that changes, all by the functions that devices and the service run.

A device's round is ``edge_agent.trainer.jobs.train`` on a job, a fold is the strategy ``fedavg``, what is kept is the
reservoir's choice. Laws: ways differ in nothing but what ``Way`` says; accuracy is measured on the exams of all stages
so far, after each stage.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.core.folding import ADAPTER as STATE_ADAPTER
from aggregator.core.folding import FoldContext, StrategyConfig, fold_checked
from aggregator.core.strategies.fedavg import STRATEGY
from edge_agent.core.reservoir import place_for
from edge_agent.trainer.jobs import evaluate, train
from host.arrays import load_vector
from host.durable import make_folder, read_bytes, write_bytes
from protocol import codec
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.bundle import ADAPTER
from protocol.continual import ContinualTerms
from protocol.jobs import UPDATE_FILE, EvaluateJob, TrainJob
from protocol.plan import Codec, Optimizer, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.continual_data import Scenario, Stage

__all__ = ["WAYS", "Way", "learn"]

_FLOAT32: Final = Codec(name="float32")
_PLAN: Final = Plan(epochs=1, batch_size=16, max_tokens=64, optimizer=Optimizer(), codec=_FLOAT32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a stream is learnt."""

    terms: ContinualTerms | None = None
    n_devices: int = 1
    local_epochs: int = 1  # in each round, over a device's share of the stage
    keeps: float = 0.2  # of one stage's examples: the places of all reservoirs together
    is_joint: bool = False


def _ways(*, replay: ContinualTerms, keeps: float, ewc: float) -> dict[str, Way]:
    return {
        "naive": Way(),
        "replay": Way(terms=replay, keeps=keeps),
        "ewc": Way(terms=ContinualTerms(ewc_strength=ewc, ewc_decay=0.9)),
        "lwf": Way(terms=ContinualTerms(lwf_weight=1.0)),
        "replay+federated": Way(terms=replay, keeps=keeps, n_devices=4, local_epochs=4),
        "joint": Way(is_joint=True),
    }


# Four devices with a quarter of the examples each go over them four times, so that a round has as many steps as the
# single device's. New classes on one head overwrite the old ones: more is kept and replayed.
WAYS: Final = {
    "sentiment": _ways(replay=ContinualTerms(replay_fraction=0.5), keeps=0.2, ewc=1.0),
    "fashion": _ways(replay=ContinualTerms(replay_fraction=0.75), keeps=1.0, ewc=10.0),
}


@dataclass(slots=True)
class _Device:
    """One device's share of the stream, what it keeps of it, and its memory of the stage before."""

    name: str
    kept: list[Any] = field(default_factory=list)
    n_seen: int = 0
    memory: Path | None = None


class _Run:
    """One way, one seed."""

    def __init__(self, scenario: Scenario, way: Way, *, seed: int, epochs: int, folder: Path) -> None:
        self.scenario, self.way, self.epochs, self.folder = scenario, way, epochs, make_folder(folder)
        self.rng = np.random.default_rng([seed, 2])
        self.plan = replace(_PLAN, epochs=way.local_epochs, continual=way.terms, seed=seed)
        self.devices = [_Device(f"device-{i}") for i in range(way.n_devices)]
        bundle = scenario.bundle
        self.theta = load_vector(bundle.path(ADAPTER), n_values=bundle.layout.n_params)
        self.n_jobs, self.n_stages = 0, 0

    def stage(self, stage: Stage) -> None:
        """Learn one stage: ``epochs`` rounds in which each device goes over its share of it."""
        shares = {one.name: stage.rows[i :: len(self.devices)] for i, one in enumerate(self.devices)}
        memories: dict[str, Path] = {}
        self.n_stages += 1
        for round_ in range(1, self.epochs + 1):
            state = STRATEGY.init(self.scenario.bundle.layout, StrategyConfig(initial_adapter=self.theta))
            deltas = []
            for one in self.devices:
                delta, memories[one.name] = self._train(one, shares[one.name])
                deltas.append((delta, len(shares[one.name])))
            context = FoldContext(layout=self.scenario.bundle.layout, round=round_, version=round_ - 1)
            self.theta = fold_checked(STRATEGY, state, deltas, context)[STATE_ADAPTER]
        for one in self.devices:
            one.memory = memories[one.name]
            self._keep(one, shares[one.name], len(stage.rows))

    def exam(self, stages: list[Stage]) -> list[float]:
        """Return the accuracy on each stage's exam."""
        adapter = self.folder / "adapter.payload"
        write_bytes(adapter, codec.encode(self.theta, _FLOAT32))
        job = EvaluateJob(
            bundle=str(self.scenario.bundle.folder),
            adapter=str(adapter),
            sets={f"s{i}": str(stage.exam) for i, stage in enumerate(stages)},
        )
        sets = evaluate(job, lambda _: None, started=time.monotonic()).sets
        return [sets[f"s{i}"].n_correct / sets[f"s{i}"].n_examples for i in range(len(stages))]

    def _train(self, device: _Device, rows: list[Any]) -> tuple[np.ndarray[Any, Any], Path]:
        out = make_folder(self.folder / f"{device.name}-{self.n_stages % 2}")  # the other one has the memory
        self.n_jobs += 1
        write_bytes(out / "adapter.payload", codec.encode(self.theta, _FLOAT32))
        terms = self.way.terms
        replays = terms is not None and terms.replay_fraction is not None and device.kept
        remembers = terms is not None and terms.needs_memory
        job = TrainJob(
            bundle=str(self.scenario.bundle.folder),
            data=str(self.scenario.write(out / "new", rows)),
            out=str(out),
            plan=replace(self.plan, seed=self.plan.seed + self.n_jobs),
            adapter=str(out / "adapter.payload"),
            replay=str(self.scenario.write(out / "kept", device.kept)) if replays else None,
            memory=str(device.memory) if remembers and device.memory is not None else None,
        )
        train(job, lambda _: None, started=time.monotonic())
        payload = read_bytes(out / UPDATE_FILE, max_bytes=MAX_MESSAGE_BYTES)
        return codec.decode(payload, n_values=self.theta.size), out

    def _keep(self, device: _Device, rows: list[Any], n_stage: int) -> None:
        capacity = max(1, int(self.way.keeps * n_stage / len(self.devices)))
        for row in rows:
            place = place_for(device.n_seen, capacity=capacity, draw=float(self.rng.random()))
            device.n_seen += 1
            if place is not None:
                device.kept[place : place + 1] = [row]


def learn(scenario: Scenario, way: Way, *, seed: int, epochs: int, folder: Path) -> list[list[float]]:
    """Return a_ij: after each stage i the accuracy on the exams of stages j up to i; jointly, the last row alone."""
    run = _Run(scenario, way, seed=seed, epochs=epochs, folder=folder)
    stages = scenario.stages
    if way.is_joint:
        rows = [row for stage in stages for row in stage.rows]
        run.stage(replace(stages[0], name="all", rows=[rows[i] for i in run.rng.permutation(len(rows))]))
        return [run.exam(stages)]
    accuracies = []
    for i, stage in enumerate(stages):
        run.stage(stage)
        accuracies.append(run.exam(stages[: i + 1]))
    return accuracies
