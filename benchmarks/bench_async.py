"""How much sooner is an asynchronous task where a synchronous one ends, when devices differ in speed by 1 : 2 : 4?

The real wire and real training twice, one after the other: broker, aggregator and six agents as processes, MiniLM with
LoRA, each device with its own part of the same mixed texts, so that speed and data have nothing to do with each other.
Two devices are quick, two take twice, two four times as long for a pass of forward and backward: their trainers wait
(``[trainer] least_pass_s``), so the ratio holds whatever else the machine does; the computing itself is the same for
all and fits its cores. Time is from the first round's opening to the version that is as accurate on held-out texts as
the synchronous task's last one; versions are measured afterwards, so that measuring takes no core from training: the
asynchronous ones in their order until one is as accurate, and the last. Both tasks run for the same time, and the
asynchronous one's history is folded again (``edgefold task verify``).

When a curve first reaches a level near its plateau depends on luck, so all of it is done for several seeds (which text
is on which device, and the order of training), and the goal is held against the mean. Buffers are half of the devices,
and the server's learning rate is 1.5: at a staleness of about 2 the paper's weights shorten steps to 0.6.

Settings: EDGEFOLD_SEEDS (3), EDGEFOLD_ROUNDS (7 synchronous ones), EDGEFOLD_PASS_S (the quick devices' pass, 0.6 s),
EDGEFOLD_EXAMPLES (192 a device), EDGEFOLD_BUFFER (3 updates a version), EDGEFOLD_SERVER_RATE (1.5). About 10 minutes a
seed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.record import Benchmark, Peer
from deploy.baselines import Scores
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.local import FleetSpec, LocalFleet
from host.arrays import load_vector
from host.durable import make_folder, write_bytes
from host.trainer_process import run_job
from protocol import codec
from protocol.jobs import EvaluateJob
from protocol.plan import Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.supervised import FleetEvent
    from host.bundle_folder import Bundle
    from protocol.plan import Plan

FACTORS: Final = {"quick-1": 1, "quick-2": 1, "medium-1": 2, "medium-2": 2, "slow-1": 4, "slow-2": 4}
DEADLINE_S: Final = 900.0
N_TEST: Final = 150  # held-out texts of each domain
ENDLESS: Final = 10_000  # versions: time ends the asynchronous run
_FLOAT32: Final = Codec(name="float32")
# NVIDIA FLARE's edge example publishes two runs with its own simulator: held beside ours, not against them.
FLARE: Final = Peer(
    "NVIDIA FLARE, 16 simulated devices of three speeds",
    "its own README: 45 against 82 minutes for the same number of updates, not measured by us",
    {"time_ratio": 45 / 82},
)


@dataclass(slots=True)
class Run:
    """What one task showed; seconds since its first round opened."""

    name: str
    folded_s: dict[int, float] = field(default_factory=dict)  # by version
    n_updates: dict[int, int] = field(default_factory=dict)
    staleness: list[int] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)
    opened_s: float = 0.0

    def take(self, event: FleetEvent) -> None:
        """Note one event."""
        if event.name != "version-folded":
            return
        facts, at_s = event.facts, datetime.fromisoformat(event.facts["at"]).timestamp()
        if not self.folded_s:
            self.opened_s = at_s - facts["seconds"]
        self.folded_s[facts["version"]] = at_s - self.opened_s
        self.n_updates[facts["version"]] = facts["n_updates"]
        self.staleness += facts.get("staleness", [])
        print(f"{self.name}: version {facts['version']} at {self.folded_s[facts['version']]:.0f} s", flush=True)

    @property
    def last_s(self) -> float:
        """When the newest version was folded."""
        return max(self.folded_s.values(), default=0.0)

    def first_at(self, accuracy: float) -> int | None:
        """Return the first version that is at least so accurate."""
        return min((v for v, one in self.accuracy.items() if one >= accuracy and v in self.folded_s), default=None)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Seconds and accuracy of each version, the bundle's own first."""
        return [(self.folded_s.get(version, 0.0), self.accuracy[version]) for version in sorted(self.accuracy)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is run."""

    n_rounds: int
    pass_s: float
    n_examples: int
    buffer: int
    server_rate: float

    @classmethod
    def read(cls) -> Options:
        """Return what the environment says."""
        given = os.environ.get
        return cls(
            n_rounds=int(given("EDGEFOLD_ROUNDS", "7")),
            pass_s=float(given("EDGEFOLD_PASS_S", "0.6")),
            n_examples=int(given("EDGEFOLD_EXAMPLES", "192")),
            buffer=int(given("EDGEFOLD_BUFFER", "3")),
            server_rate=float(given("EDGEFOLD_SERVER_RATE", "1.5")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both tasks with one seed."""

    seed: int
    sync: Run
    buffered: Run

    @property
    def goal(self) -> float:
        """The accuracy of the synchronous task's last version."""
        return self.sync.accuracy[max(self.sync.folded_s)]

    @property
    def reached_s(self) -> float | None:
        """When the asynchronous task was as accurate; None if it never was."""
        version = self.buffered.first_at(self.goal)
        return None if version is None else self.buffered.folded_s[version]

    @property
    def time_ratio(self) -> float:
        """That time over the synchronous task's; at least what it would be if it is not reached."""
        return (self.buffered.last_s if self.reached_s is None else self.reached_s) / self.sync.last_s


def main() -> None:
    """Measure and report."""
    options, bundle = Options.read(), export_bundle(Path("out/bench/bundle"))
    pairs = [_pair(options, bundle, seed) for seed in range(int(os.environ.get("EDGEFOLD_SEEDS", "3")))]
    bench = Benchmark(
        "async", "When is an asynchronous task as good as the synchronous one, at speeds 1 : 2 : 4?", peers=[FLARE]
    )
    _summarise(bench, options, pairs)
    bench.finish(lambda figure: _draw(figure, pairs))


def _pair(options: Options, bundle: Bundle, seed: int) -> Pair:
    parts, sets = _data(options.n_examples, seed)
    pair = Pair(seed=seed, sync=Run(f"synchronous, seed {seed}"), buffered=Run(f"asynchronous, seed {seed}"))
    sync, buffered = pair.sync, pair.buffered
    plan = dataclasses.replace(PLAN, seed=seed)
    spec = _spec(bundle, parts, options, plan, rounds=options.n_rounds, settings={"cohort": len(FACTORS)})
    _run(sync, spec, is_over=lambda: options.n_rounds in sync.folded_s)
    _measure(sync, spec, bundle, sets)
    settings = {
        "mode": "async",
        "strategy": "fedbuff",
        "strategy_options": {"server_learning_rate": options.server_rate},
        "cohort": options.buffer,
        "asynchronous": {"concurrency": len(FACTORS)},
    }
    spec = _spec(bundle, parts, options, plan, rounds=ENDLESS, settings=settings)
    _run(buffered, spec, is_over=lambda: buffered.last_s >= sync.last_s)
    _measure(buffered, spec, bundle, sets, until=pair.goal)
    print(f"seed {seed}: {pair.time_ratio:.3f} of the synchronous time", flush=True)
    return pair


def _data(n_examples: int, seed: int) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return each device's file and the held-out sets: a device has every sixth block of one text of each domain."""
    n_train = -(-n_examples * len(FACTORS) // len(DOMAINS))  # of a domain
    splits = prepare_data(n_train, N_TEST)
    lines = [splits.train[domain].read_bytes().splitlines(keepends=True) for domain in DOMAINS]
    blocks = list(zip(*lines, strict=True))
    order = np.random.default_rng(seed).permutation(len(blocks)) if seed else range(len(blocks))
    folder = make_folder(Path(f"out/data/async-{n_examples}-{seed}"))
    parts = {}
    for at, device in enumerate(FACTORS):
        parts[device] = folder / f"{device}.jsonl"
        write_bytes(parts[device], b"".join(line for i in order[at :: len(FACTORS)] for line in blocks[i]))
    return parts, dict(splits.test)


def _spec(
    bundle: Bundle,
    parts: Mapping[str, Path],
    options: Options,
    plan: Plan,
    *,
    rounds: int,
    settings: Mapping[str, Any],
) -> FleetSpec:
    return FleetSpec(
        folder=Path("out/bench/async-fleet"),
        bundle=bundle.folder,
        devices=parts,
        plan=plan,
        rounds=rounds,
        keep_updates=True,
        task_settings=settings,
        trainer_settings={device: {"least_pass_s": options.pass_s * factor} for device, factor in FACTORS.items()},
    )


def _run(run: Run, spec: FleetSpec, *, is_over: Callable[[], bool]) -> None:
    with LocalFleet(spec) as fleet:
        for event in fleet.events(deadline_s=DEADLINE_S):
            run.take(event)
            if is_over():
                return
    sys.exit(f"{run.name}: not over after {DEADLINE_S:.0f} s; see {spec.folder / 'logs'}")


def _measure(
    run: Run, spec: FleetSpec, bundle: Bundle, sets: Mapping[str, Path], *, until: float | None = None
) -> None:
    """Measure the versions that the fleet left, two at a time, after its history was folded again.

    With ``until`` only those up to the first that is at least so accurate, and the last.
    """
    config = spec.folder / "aggregator" / "aggregator.toml"
    _ask("verify", spec.task, config)
    folder = make_folder(spec.folder / "measured")

    def accuracy(version: dict[str, Any]) -> float:
        blob = spec.folder / "aggregator" / "state" / "blobs" / version["state_blobs"]["adapter"]
        payload = folder / f"{version['version']}.payload"
        vector = load_vector(blob, n_values=bundle.layout.n_params)
        write_bytes(payload, codec.encode(vector, _FLOAT32))
        paths = {name: str(path) for name, path in sets.items()}
        job = EvaluateJob(bundle=str(bundle.folder), sets=paths, adapter=str(payload), max_tokens=PLAN.max_tokens)
        return Scores.of(run_job(job, deadline_s=DEADLINE_S).sets).pooled

    # The newest may have been folded after the run's end: only what was seen counts.
    versions = [one for one in _ask("show", spec.task, config)["versions"] if one["version"] in {0, *run.folded_s}]
    with ThreadPoolExecutor(2, thread_name_prefix="measure") as pool:
        for first in range(0, len(versions), 2):
            two = versions[first : first + 2]
            run.accuracy |= dict(zip((one["version"] for one in two), pool.map(accuracy, two), strict=True))
            if until is not None and run.first_at(until) is not None:
                break
    if versions[-1]["version"] not in run.accuracy:
        run.accuracy[versions[-1]["version"]] = accuracy(versions[-1])


def _ask(verb: str, task: str, config: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgefold", "task", verb, task, "--config", str(config), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"edgefold task {verb}: {done.stderr or done.stdout}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _summarise(bench: Benchmark, options: Options, pairs: list[Pair]) -> None:
    ratios, staleness = [one.time_ratio for one in pairs], [age for one in pairs for age in one.buffered.staleness]
    gains = [one.buffered.accuracy[max(one.buffered.accuracy)] - one.goal for one in pairs]
    bench.summary |= {
        "n_seeds": len(pairs),
        "n_reached": sum(one.reached_s is not None for one in pairs),
        "time_ratio": fmean(ratios),
        "time_ratio_lowest": min(ratios),
        "time_ratio_highest": max(ratios),
        "time_ratio_standard_deviation": stdev(ratios) if len(ratios) > 1 else 0.0,
        "synchronous_accuracy_fraction": fmean(one.goal for one in pairs),
        "synchronous_s": fmean(one.sync.last_s for one in pairs),
        "synchronous_updates": sum(pairs[0].sync.n_updates.values()),
        "more_accurate_after_the_same_time_fraction": fmean(gains),
        "mean_staleness": fmean(staleness or [0]),
        "most_stale": max(staleness, default=0),
    }
    bench.goals["time_ratio"] = (0, 0.55)
    bench.details |= {
        "factors": FACTORS,
        "options": dataclasses.asdict(options),
        "seeds": [
            {
                "seed": one.seed,
                "time_ratio": one.time_ratio,
                "synchronous": one.sync.points,
                "asynchronous": one.buffered.points,
                "staleness": one.buffered.staleness,
            }
            for one in pairs
        ],
    }


def _draw(figure: Any, pairs: list[Pair]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for pair in pairs:
        for run, color, what in ((pair.sync, "#2a6f97", "synchronous"), (pair.buffered, "#e0a458", "asynchronous")):
            seconds, accuracy = zip(*run.points, strict=True)
            label = what if pair is pairs[0] else None
            axes.plot(seconds, [100 * one for one in accuracy], marker="o", markersize=3, color=color, label=label)
        if pair.reached_s is not None:
            axes.plot([pair.reached_s], [100 * pair.goal], marker="*", markersize=12, color="black")
    axes.set(xlabel="seconds since the first round opened", ylabel="accuracy on held-out texts, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
