"""What do devices forget when their examples change, and what keeps them from it?

Two streams: four kinds of text one after another (MiniLM, LoRA and a head), and Fashion-MNIST's ten classes two by two
(a small vision transformer, LoRA and a head). Six ways: naive, replay, EWC, LwF, replay on four devices that are folded
after each round, and all data at once. Average accuracy and forgetting as ``edge_agent.core.progress`` has them.

A finished run (stream, way, seed) is kept in out/bench/continual, and not done again with the same settings.
Settings: EDGEFOLD_STREAMS (sentiment,fashion), EDGEFOLD_WAYS, EDGEFOLD_SEEDS (3), EDGEFOLD_TRAIN (examples a stage,
600), EDGEFOLD_TEST (400), EDGEFOLD_EPOCHS (2), EDGEFOLD_FASHION (see ``benchmarks.fashion``).
"""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING, Any, Final

from benchmarks.continual_data import OUT, SCENARIOS, Scale
from benchmarks.continual_ways import WAYS, learn
from benchmarks.record import Benchmark
from edge_agent.core.progress import Progress, progress_of
from host.durable import make_folder, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POINTS: Final = 100
Rows = list[list[float]]
FEDERATED: Final = "replay+federated"


def main() -> None:
    """Measure and report."""
    streams = os.environ.get("EDGEFOLD_STREAMS", ",".join(SCENARIOS)).split(",")
    ways = os.environ.get("EDGEFOLD_WAYS", ",".join(WAYS["sentiment"])).split(",")
    n_seeds, epochs = _number("EDGEFOLD_SEEDS", 3), _number("EDGEFOLD_EPOCHS", 2)
    scale = Scale(n_train=_number("EDGEFOLD_TRAIN", 600), n_test=_number("EDGEFOLD_TEST", 400))
    runs: dict[str, dict[str, list[Rows]]] = {stream: {way: [] for way in ways} for stream in streams}
    for seed in range(n_seeds):
        for stream in streams:
            for way in ways:
                rows = _run(stream, way, seed=seed, scale=scale, epochs=epochs)
                runs[stream][way].append(rows)
                final = statistics.fmean(rows[-1])
                print(f"{stream:<10} seed {seed} {way:<18} average accuracy {final:.3f}", flush=True)
    bench = Benchmark("continual", "What is forgotten when examples change, and what keeps from it?")
    for stream, found in runs.items():
        _summarise(bench, stream, found)
    bench.details = {"runs": runs, "n_train": scale.n_train, "n_test": scale.n_test, "epochs": epochs, "seeds": n_seeds}
    bench.finish(lambda figure: _draw(figure, runs))


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _run(stream: str, way: str, *, seed: int, scale: Scale, epochs: int) -> Rows:
    settings = {"n_train": scale.n_train, "n_test": scale.n_test, "epochs": epochs, "way": repr(WAYS[stream][way])}
    path = make_folder(OUT) / f"{stream}-{way}-{seed}.json"
    if path.is_file():
        known = json.loads(path.read_bytes())
        if known["settings"] == settings:
            rows: Rows = known["rows"]
            return rows
    scenario = SCENARIOS[stream](seed, scale)
    rows = learn(scenario, WAYS[stream][way], seed=seed, epochs=epochs, folder=OUT / f"work-{stream}-{way}-{seed}")
    write_bytes(path, json.dumps({"settings": settings, "rows": rows}).encode(), mode=0o644)
    return rows


def _progress(rows: Rows) -> Progress:
    found = progress_of(rows)
    if found is None:
        message = "a run without stages"
        raise ValueError(message)
    return found


def _summarise(bench: Benchmark, stream: str, found: Mapping[str, Sequence[Rows]]) -> None:
    for way, runs in found.items():
        key = f"{stream}_{way.replace('+', '_')}"
        averages = [statistics.fmean(rows[-1]) for rows in runs]
        bench.summary[f"{key}_accuracy_fraction"] = statistics.fmean(averages)
        bench.summary[f"{key}_spread_over_seeds_points"] = POINTS * (max(averages) - min(averages))
        if way != "joint":
            forgotten = statistics.fmean(_progress(rows).forgetting or 0.0 for rows in runs)
            transfer = statistics.fmean(_progress(rows).backward_transfer or 0.0 for rows in runs)
            bench.summary[f"{key}_forgetting_points"] = POINTS * forgotten
            bench.summary[f"{key}_backward_transfer_points"] = POINTS * transfer
    if {"naive", "joint", FEDERATED} <= found.keys():
        ours, names = f"{stream}_{FEDERATED.replace('+', '_')}", bench.summary
        naive = names[f"{stream}_naive_forgetting_points"]
        if naive > 0:  # where nothing is forgotten there is no share of it
            names[f"{ours}_forgetting_share_of_naive"] = names[f"{ours}_forgetting_points"] / naive
            bench.goals[f"{ours}_forgetting_share_of_naive"] = (float("-inf"), 1 / 3)
        names[f"{ours}_below_joint_points"] = POINTS * (
            names[f"{stream}_joint_accuracy_fraction"] - names[f"{ours}_accuracy_fraction"]
        )
        bench.goals[f"{ours}_below_joint_points"] = (float("-inf"), 3.0)


def _draw(figure: Any, runs: Mapping[str, Mapping[str, Sequence[Rows]]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for at, (stream, found) in enumerate(runs.items()):
        axes = figure.add_subplot(1, len(runs), at + 1)
        for way, several in found.items():
            if way == "joint":
                level = POINTS * statistics.fmean(statistics.fmean(rows[-1]) for rows in several)
                axes.axhline(level, color="black", linestyle="--", label="joint")
                continue
            means = [[statistics.fmean(rows[i]) for i in range(len(rows))] for rows in several]
            line = [POINTS * statistics.fmean(values) for values in zip(*means, strict=True)]
            axes.plot(range(1, len(line) + 1), line, marker="o", markersize=3, label=way)
        axes.set(xlabel="stages learnt", ylabel="mean accuracy on the stages so far, %", title=stream)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
