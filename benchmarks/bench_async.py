"""How much sooner is an asynchronous task where a synchronous one ends, when devices differ in speed by 1 : 2 : 4?

The real wire and real training twice, one after the other: broker, aggregator and six agents as processes, MiniLM with
LoRA, each device with its own part of the same mixed texts, so that speed and data have nothing to do with each other.
Two devices are quick, two take twice, two four times as long for a pass of forward and backward: their trainers wait
(``[trainer] least_pass_s``), so the ratio holds whatever else the machine does; the computing itself is the same for
all and fits its cores. Time is from the first round's opening to the version that, measured beside the rounds, is as
accurate on held-out texts as the synchronous task's last one.

Settings: EDGEFOLD_ROUNDS (6 synchronous ones), EDGEFOLD_PASS_S (the quick devices' pass, 0.5 s), EDGEFOLD_EXAMPLES (256
a device).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.record import Benchmark, Peer
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.local import FleetSpec, LocalFleet
from host.durable import make_folder, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.supervised import FleetEvent
    from host.bundle_folder import Bundle

FACTORS: Final = {"quick-1": 1, "quick-2": 1, "medium-1": 2, "medium-2": 2, "slow-1": 4, "slow-2": 4}
BUFFER: Final = 2
DEADLINE_S: Final = 900.0
MOST_VERSIONS: Final = 10  # of the asynchronous task for each synchronous round, before it is given up
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
    accuracy: dict[int, float] = field(default_factory=dict)
    staleness: list[int] = field(default_factory=list)
    n_updates: int = 0
    opened_s: float | None = None

    def take(self, event: FleetEvent) -> None:
        """Note one event."""
        facts = event.facts
        match event.name:
            case "version-folded":
                at_s = datetime.fromisoformat(facts["at"]).timestamp()
                if self.opened_s is None:
                    self.opened_s = at_s - facts["seconds"]
                self.folded_s[facts["version"]] = at_s - self.opened_s
                self.n_updates += facts["n_updates"]
                self.staleness += facts.get("staleness", [])
            case "version-evaluated":
                self.accuracy[facts["version"]] = facts["pooled_accuracy"]

    def first_at(self, accuracy: float) -> int | None:
        """Return the first version that is at least so accurate."""
        found = [version for version, one in self.accuracy.items() if one >= accuracy and version in self.folded_s]
        return min(found, default=None)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Seconds and accuracy of each measured version, the bundle's own first."""
        return [(self.folded_s.get(version, 0.0), self.accuracy[version]) for version in sorted(self.accuracy)]


def main() -> None:
    """Measure and report."""
    n_rounds, pass_s = int(os.environ.get("EDGEFOLD_ROUNDS", "6")), float(os.environ.get("EDGEFOLD_PASS_S", "0.5"))
    n_examples = int(os.environ.get("EDGEFOLD_EXAMPLES", "256"))
    bundle = export_bundle(Path("out/bench/bundle"))
    parts, sets = _data(n_examples)
    sync = Run("synchronous")
    _run(sync, _spec(bundle, parts, sets, pass_s, rounds=n_rounds, settings={"cohort": len(FACTORS)}))
    goal = sync.accuracy[n_rounds]
    buffered = Run("asynchronous")
    settings = {
        "mode": "async",
        "strategy": "fedbuff",
        "cohort": BUFFER,
        "min_cohort": 1,
        "asynchronous": {"concurrency": len(FACTORS)},
    }
    spec = _spec(bundle, parts, sets, pass_s, rounds=n_rounds * MOST_VERSIONS, settings=settings)
    _run(buffered, spec, goal=goal)
    bench = Benchmark(
        "async", "When is an asynchronous task as good as the synchronous one, at speeds 1 : 2 : 4?", peers=[FLARE]
    )
    _summarise(bench, sync, buffered, goal, n_rounds)
    bench.finish(lambda figure: _draw(figure, sync, buffered, goal))


def _data(n_examples: int) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return each device's file and the held-out sets: a device has every sixth text of each domain."""
    n_train = -(-n_examples * len(FACTORS) // len(DOMAINS))  # of a domain
    splits = prepare_data(n_train, 250)
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
    bundle: Bundle,
    parts: Mapping[str, Path],
    sets: Mapping[str, Path],
    pass_s: float,
    *,
    rounds: int,
    settings: Mapping[str, Any],
) -> FleetSpec:
    return FleetSpec(
        folder=Path("out/bench/async-fleet"),
        bundle=bundle.folder,
        devices=parts,
        sets=sets,
        plan=PLAN,
        rounds=rounds,
        task_settings=settings,
        trainer_settings={device: {"least_pass_s": pass_s * factor} for device, factor in FACTORS.items()},
    )


def _run(run: Run, spec: FleetSpec, *, goal: float | None = None) -> None:
    """Run a fleet until its task is over and measured or, with a goal, until a version that is as accurate."""
    with LocalFleet(spec) as fleet:
        for event in fleet.events(deadline_s=DEADLINE_S):
            run.take(event)
            if event.name == "version-evaluated":
                version = event.facts["version"]
                at_s, accuracy = run.folded_s.get(version, 0.0), run.accuracy[version]
                print(f"{run.name}: version {version} at {at_s:.0f} s: {accuracy:.3f}", flush=True)
                if goal is not None and run.first_at(goal) is not None:
                    return
                if version == spec.rounds:
                    return
    sys.exit(f"{run.name}: not over after {DEADLINE_S:.0f} s; see {spec.folder / 'logs'}")


def _summarise(bench: Benchmark, sync: Run, buffered: Run, goal: float, n_rounds: int) -> None:
    reached = buffered.first_at(goal)
    until_s, sync_s = buffered.folded_s.get(reached or 0, float("inf")), sync.folded_s[n_rounds]
    bench.summary |= {
        "final_accuracy_fraction": goal,
        "synchronous_s": sync_s,
        "asynchronous_s": until_s,
        "time_ratio": until_s / sync_s,
        "synchronous_updates": sync.n_updates,
        "asynchronous_updates": sum(BUFFER for version in buffered.folded_s if version <= (reached or 0)),
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
