"""What does encoding an update in fewer bytes cost in accuracy?

The demo's fleet with real processes, once for each codec and seed (the seed sets the order of the examples on every
device); the final pooled accuracy on 2,000 held-out texts. One run's sampling error is about 0.8 points, but all runs
are tested on the same texts; the spread over seeds is printed.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.record import Benchmark, Peer
from deploy.demo import DOMAINS, PLAN, export_bundle, prepare_data
from deploy.demo_view import watch
from deploy.local import FleetSpec, LocalFleet
from protocol.plan import Codec

CODECS: Final = ("float32", "float16", "int8-block")
SEEDS: Final = (0, 1, 2)
ROUNDS: Final = 6
POINTS: Final = 100


def main() -> None:
    """Measure and report."""
    bundle = export_bundle(Path("out/bench/bundle"))
    splits = prepare_data(500, 500)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CODECS}
    for seed in SEEDS:
        for name in CODECS:
            spec = FleetSpec(
                folder=Path("out/bench/codec-fleet"),
                bundle=bundle.folder,
                devices={f"device-{domain}": splits.train[domain] for domain in DOMAINS},
                sets=splits.test,
                plan=replace(PLAN, codec=Codec(name=name), seed=seed),  # type: ignore[arg-type]
                rounds=ROUNDS,
            )
            print(f"{name}, seed {seed}")
            with LocalFleet(spec) as fleet:
                record = watch(fleet, Console(), n_params=bundle.manifest.adapter.n_params)
            last = record.evaluations[record.final_version]
            update_bytes = statistics.mean(record.update_bytes)
            runs[name].append({"accuracy": last["pooled_accuracy"], "loss": last["loss"], "update_bytes": update_bytes})
    bench = Benchmark("codec", "What does encoding an update in fewer bytes cost in accuracy?")
    _summarise(bench, runs, n_bytes=4 * bundle.manifest.adapter.n_params)
    bench.finish(lambda figure: _draw(figure, runs))


def _summarise(bench: Benchmark, runs: dict[str, list[dict[str, float]]], *, n_bytes: int) -> None:
    mean = {name: statistics.mean(one["accuracy"] for one in found) for name, found in runs.items()}
    for name in CODECS:
        key = name.replace("-", "_")
        bench.summary[f"{key}_accuracy_fraction"] = mean[name]
        bench.summary[f"{key}_loss_nats"] = statistics.mean(one["loss"] for one in runs[name])
        bench.summary[f"{key}_bytes_fraction_of_float32"] = runs[name][0]["update_bytes"] / n_bytes
        bench.summary[f"{key}_points_lost"] = POINTS * (mean["float32"] - mean[name])
    bench.summary["float32_spread_over_seeds_points"] = POINTS * (
        max(one["accuracy"] for one in runs["float32"]) - min(one["accuracy"] for one in runs["float32"])
    )
    bench.goals |= {"int8_block_bytes_fraction_of_float32": (0, 0.30), "int8_block_points_lost": (-100, 0.5)}
    bench.peers.append(
        Peer(
            "float32",
            "measured in this run, seed by seed",
            {"accuracy_fraction": mean["float32"], "update_bytes": n_bytes},
        )
    )
    bench.details["runs"] = runs


def _draw(figure: Any, runs: dict[str, list[dict[str, float]]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for name, found in runs.items():
        axes.scatter(
            [one["update_bytes"] / 1000 for one in found], [POINTS * one["accuracy"] for one in found], label=name
        )
    axes.set(xlabel="kB an update", ylabel="final pooled accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
