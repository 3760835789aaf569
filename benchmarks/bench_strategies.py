"""Which strategy learns most in few rounds from four unlike devices, and what does it send?

The demo's fleet with real processes (broker, aggregator, four agents with one kind of text each), once for each
strategy and seed, on the same plan; the pooled accuracy on held-out texts after each round, and the bytes of a device
in a round. SCAFFOLD needs plain SGD, so it has federated averaging with plain SGD beside it. The service cannot measure
FedSA-LoRA: the B that matters stays on the devices.

Settings: EDGEFOLD_STRATEGIES (names, comma-separated), EDGEFOLD_SEEDS (how many, 3), EDGEFOLD_ROUNDS (3),
EDGEFOLD_TRAIN (texts of a device, 128).
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.record import Benchmark, Peer
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.demo_view import watch
from deploy.local import FleetSpec, LocalFleet
from protocol.plan import Optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.demo_view import FleetRecord

POINTS: Final = 100
N_TEST: Final = 250  # texts of each kind
# Short texts in small batches, so that all strategies take 20 minutes a seed on two cores.
_PLAN: Final = replace(PLAN, epochs=2, batch_size=8, max_tokens=32)
_RANKS: Final = {"device-tweets": 2, "device-movies": 4}  # the others have the bundle's 8
_SGD: Final = Optimizer(name="sgd", learning_rate=0.3, beta1=0.0, weight_decay=0.0)


@dataclass(frozen=True, slots=True)
class Contender:
    """One strategy as it is run."""

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Optimizer | None = None  # the demo's if None


CONTENDERS: Final = {
    "fedavg": Contender("fedavg"),
    "fedavgm": Contender("fedavgm", {"momentum": 0.5}),
    "fedprox": Contender("fedprox", {"mu": 0.001}),
    "fedadam": Contender("fedadam"),
    "fedyogi": Contender("fedyogi"),
    "fedadagrad": Contender("fedadagrad"),
    "fedbuff": Contender("fedbuff"),
    "fedit": Contender("fedit"),
    "ffa-lora": Contender("ffa-lora"),
    "rolora": Contender("rolora"),
    "flora": Contender("flora"),
    "flora-ranks": Contender("flora", {"ranks": _RANKS}),
    "fedex-lora": Contender("fedex-lora"),
    "flexlora": Contender("flexlora"),
    "flexlora-ranks": Contender("flexlora", {"ranks": _RANKS}),
    "hetlora-ranks": Contender("hetlora", {"ranks": _RANKS}),
    "coordinate-median": Contender("coordinate-median"),
    "trimmed-mean": Contender("trimmed-mean", {"trimmed_fraction": 0.25}),
    "multi-krum": Contender("multi-krum"),
    "norm-bounding": Contender("norm-bounding", {"max_norm": 0.5}),
    "fedavg-sgd": Contender("fedavg", optimizer=_SGD),
    "scaffold": Contender("scaffold", {"n_devices": len(DOMAINS)}, _SGD),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run showed; bytes of one device in one round, means."""

    accuracies: tuple[float, ...]  # by version, the bundle's first
    up_bytes: float
    down_bytes: float

    @classmethod
    def of(cls, record: FleetRecord) -> Run:
        """Return the figures of a watched fleet."""
        rounds = [one for one in record.rounds.values() if one.version is not None]
        n = len(rounds) * len(DOMAINS)
        return cls(
            accuracies=tuple(record.evaluations[v]["pooled_accuracy"] for v in sorted(record.evaluations)),
            up_bytes=sum(one.bytes_up for one in rounds) / n,
            down_bytes=sum(one.bytes_down for one in rounds) / n,
        )


def main() -> None:
    """Measure and report."""
    names = os.environ.get("EDGEFOLD_STRATEGIES", ",".join(CONTENDERS)).split(",")
    n_seeds, n_rounds = int(os.environ.get("EDGEFOLD_SEEDS", "3")), int(os.environ.get("EDGEFOLD_ROUNDS", "3"))
    bundle = export_bundle(Path("out/bench/strategies-bundle"))  # of its own: an older one may have no base.json
    splits = prepare_data(int(os.environ.get("EDGEFOLD_TRAIN", "128")), N_TEST)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(n_seeds):
        for name in names:
            one = CONTENDERS[name]
            clip = None if one.strategy == "scaffold" else _PLAN.clip_update_norm
            plan = replace(_PLAN, seed=seed, optimizer=one.optimizer or _PLAN.optimizer, clip_update_norm=clip)
            spec = FleetSpec(
                folder=Path("out/bench/strategies-fleet"),
                bundle=bundle.folder,
                devices={f"device-{domain}": splits.train[domain] for domain in DOMAINS},
                sets=splits.test,
                plan=plan,
                rounds=n_rounds,
                task_settings={"strategy": one.strategy, "strategy_options": dict(one.options)},
            )
            print(f"{name}, seed {seed}")
            with LocalFleet(spec) as fleet:
                runs[name].append(Run.of(watch(fleet, Console(), n_params=bundle.manifest.adapter.n_params)))
    bench = Benchmark("strategies", "Which strategy learns most in few rounds from four unlike devices?")
    _summarise(bench, runs)
    _print_table(runs)
    bench.finish(lambda figure: _draw(figure, runs))


def _summarise(bench: Benchmark, runs: Mapping[str, list[Run]]) -> None:
    for name, found in runs.items():
        key = name.replace("-", "_")
        finals = [one.accuracies[-1] for one in found]
        bench.summary[f"{key}_accuracy_fraction"] = statistics.mean(finals)
        bench.summary[f"{key}_spread_over_seeds_points"] = POINTS * (max(finals) - min(finals))
        bench.summary[f"{key}_up_kb"] = statistics.mean(one.up_bytes for one in found) / 1000
        bench.summary[f"{key}_down_kb"] = statistics.mean(one.down_bytes for one in found) / 1000
    if "fedavg" in runs:
        accuracy = statistics.mean(one.accuracies[-1] for one in runs["fedavg"])
        bench.peers.append(Peer("fedavg", "measured in this run, seed by seed", {"accuracy_fraction": accuracy}))
    bench.details["accuracy_by_version"] = {n: [list(one.accuracies) for one in found] for n, found in runs.items()}


def _print_table(runs: Mapping[str, list[Run]]) -> None:
    table = Table(box=None, pad_edge=False)
    for head in ("strategy", "before, %", "after, %", "spread, points", "up, kB", "down, kB"):
        table.add_column(head, justify="left" if head == "strategy" else "right")
    for name, found in sorted(runs.items(), key=lambda one: -statistics.mean(run.accuracies[-1] for run in one[1])):
        finals = [POINTS * run.accuracies[-1] for run in found]
        figures = (
            POINTS * statistics.mean(run.accuracies[0] for run in found),
            statistics.mean(finals),
            max(finals) - min(finals),
            statistics.mean(run.up_bytes for run in found) / 1000,
            statistics.mean(run.down_bytes for run in found) / 1000,
        )
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    Console(width=100).print(table)


def _draw(figure: Any, runs: Mapping[str, list[Run]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for name, found in runs.items():
        mean = [POINTS * statistics.mean(values) for values in zip(*(one.accuracies for one in found), strict=True)]
        axes.plot(range(len(mean)), mean, marker="o", markersize=3, label=name)
    axes.set(xlabel="rounds folded", ylabel="pooled accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2)


if __name__ == "__main__":
    main()
