"""How much sooner is an asynchronous task where a synchronous one ends, when devices differ in speed by 1 : 2 : 4?

The real wire and real training twice, one after the other: broker, aggregator and six agents as processes, MiniLM with
LoRA, each device with its own part of the same mixed texts, so that speed and data have nothing to do with each other.
Two devices are quick, two take twice, two four times as long for a pass of forward and backward: their trainers wait
(``[trainer] least_pass_s``), so the ratio holds whatever else the machine does; the computing itself is the same for
all and fits its cores. Time is from the first round's opening to the version that is as accurate on held-out texts as
the synchronous task's last one; versions are measured afterwards, so that measuring takes no core from training. Both
tasks run for the same time, and the asynchronous one's history is folded again (``edgefold task verify``).

Settings: EDGEFOLD_ROUNDS (7 synchronous ones), EDGEFOLD_PASS_S (the quick devices' pass, 0.6 s), EDGEFOLD_EXAMPLES (192
a device), EDGEFOLD_BUFFER (2 updates a version).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.record import Benchmark, Peer
from deploy.baselines import Scores
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.local import FleetSpec, LocalFleet
from host.arrays import load_vector
from host.durable import make_folder, write_bytes
from host.trainer_process import run_job
from protocol import codec
from protocol.jobs import EvaluateJob
from protocol.messages import Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.supervised import FleetEvent
    from host.bundle_folder import Bundle

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


def main() -> None:
    """Measure and report."""
    n_rounds, pass_s = int(os.environ.get("EDGEFOLD_ROUNDS", "7")), float(os.environ.get("EDGEFOLD_PASS_S", "0.6"))
    n_examples, size = int(os.environ.get("EDGEFOLD_EXAMPLES", "192")), int(os.environ.get("EDGEFOLD_BUFFER", "2"))
    bundle = export_bundle(Path("out/bench/bundle"))
    parts, sets = _data(n_examples)
    sync, buffered = Run("synchronous"), Run("asynchronous")
    spec = _spec(bundle, parts, pass_s, rounds=n_rounds, settings={"cohort": len(FACTORS)})
    _run(sync, spec, is_over=lambda: n_rounds in sync.folded_s)
    _measure(sync, spec, bundle, sets)
    settings = {
        "mode": "async",
        "strategy": "fedbuff",
        "cohort": size,
        "asynchronous": {"concurrency": len(FACTORS)},
    }
    spec = _spec(bundle, parts, pass_s, rounds=ENDLESS, settings=settings)
    _run(buffered, spec, is_over=lambda: buffered.last_s >= sync.last_s)
    _measure(buffered, spec, bundle, sets)
    bench = Benchmark(
        "async", "When is an asynchronous task as good as the synchronous one, at speeds 1 : 2 : 4?", peers=[FLARE]
    )
    _summarise(bench, sync, buffered, n_rounds)
    bench.finish(lambda figure: _draw(figure, sync, buffered, sync.accuracy[n_rounds]))


def _data(n_examples: int) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return each device's file and the held-out sets: a device has every sixth text of each domain."""
    n_train = -(-n_examples * len(FACTORS) // len(DOMAINS))  # of a domain
    splits = prepare_data(n_train, N_TEST)
    lines = [splits.train[domain].read_bytes().splitlines(keepends=True) for domain in DOMAINS]
    mixed = [line for together in zip(*lines, strict=True) for line in together]
    folder = make_folder(Path(f"out/data/async-{n_examples}"))
    parts = {}
    for at, device in enumerate(FACTORS):
        # Blocks of all domains go to the devices in turn.
        blocks = [mixed[i : i + len(DOMAINS)] for i in range(0, len(mixed), len(DOMAINS))][at :: len(FACTORS)]
        parts[device] = folder / f"{device}.jsonl"
        write_bytes(parts[device], b"".join(line for block in blocks for line in block))
    return parts, dict(splits.test)


def _spec(
    bundle: Bundle, parts: Mapping[str, Path], pass_s: float, *, rounds: int, settings: Mapping[str, Any]
) -> FleetSpec:
    return FleetSpec(
        folder=Path("out/bench/async-fleet"),
        bundle=bundle.folder,
        devices=parts,
        plan=PLAN,
        rounds=rounds,
        keep_updates=True,
        task_settings=settings,
        trainer_settings={device: {"least_pass_s": pass_s * factor} for device, factor in FACTORS.items()},
    )


def _run(run: Run, spec: FleetSpec, *, is_over: Callable[[], bool]) -> None:
    with LocalFleet(spec) as fleet:
        for event in fleet.events(deadline_s=DEADLINE_S):
            run.take(event)
            if is_over():
                return
    sys.exit(f"{run.name}: not over after {DEADLINE_S:.0f} s; see {spec.folder / 'logs'}")


def _measure(run: Run, spec: FleetSpec, bundle: Bundle, sets: Mapping[str, Path]) -> None:
    """Measure every version that the fleet left, two at a time, after its history was folded again."""
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

    versions = _ask("show", spec.task, config)["versions"]
    with ThreadPoolExecutor(2, thread_name_prefix="measure") as pool:
        run.accuracy = dict(zip((one["version"] for one in versions), pool.map(accuracy, versions), strict=True))


def _ask(verb: str, task: str, config: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgefold", "task", verb, task, "--config", str(config), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"edgefold task {verb}: {done.stderr or done.stdout}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _summarise(bench: Benchmark, sync: Run, buffered: Run, n_rounds: int) -> None:
    goal = sync.accuracy[n_rounds]
    reached = buffered.first_at(goal)
    until_s = buffered.last_s if reached is None else buffered.folded_s[reached]  # not reached: at least so long
    bench.summary |= {
        "synchronous_accuracy_fraction": goal,
        "synchronous_s": sync.last_s,
        "asynchronous_s_to_that_accuracy": until_s,
        "is_reached": reached is not None,
        "time_ratio": until_s / sync.last_s,
        "synchronous_updates": sum(sync.n_updates.values()),
        "asynchronous_updates_to_that_accuracy": sum(n for v, n in buffered.n_updates.items() if v <= (reached or 0)),
        "asynchronous_accuracy_after_the_same_time_fraction": buffered.accuracy[max(buffered.folded_s)],
        "mean_staleness": sum(buffered.staleness) / max(1, len(buffered.staleness)),
        "most_stale": max(buffered.staleness, default=0),
    }
    bench.goals["time_ratio"] = (0, 0.55)
    bench.details |= {
        "factors": FACTORS,
        "synchronous": sync.points,
        "asynchronous": buffered.points,
        "staleness": buffered.staleness,
    }


def _draw(figure: Any, sync: Run, buffered: Run, goal: float) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for run, color in ((sync, "#2a6f97"), (buffered, "#e0a458")):
        seconds, accuracy = zip(*run.points, strict=True)
        axes.plot(seconds, [100 * one for one in accuracy], marker="o", markersize=4, color=color, label=run.name)
    axes.axhline(100 * goal, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds since the first round opened", ylabel="accuracy on held-out texts, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
