"""What does a training step cost on a device, beside PyTorch?

MiniLM, LoRA r=8 and a head, batch 16, 64 tokens, AdamW. Whole processes in turn: the trainer that agents start, PyTorch
eager, PyTorch with fused attention; ratios are taken pair by pair, and the median is reported.

``--precisions nb8,nb4`` holds bundles with frozen weights in few bits against float32 instead, the same way, on one
thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Benchmark, Peer
from deploy.demo import PLAN, export_bundle
from export.adapt import Options
from export.bundle import export_bundle as export
from host.trainer_process import run_job
from protocol.jobs import TrainJob

BATCH: Final = 16
TOKENS: Final = 64
STEPS: Final = 24
PAIRS: Final = 5
MB: Final = 2**20


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default="", help="in place of PyTorch")
    options = parser.parse_args()
    bundle = export_bundle(Path("out/bench/bundle")).folder
    if options.precisions:
        _precisions(bundle, options.precisions.split(","))
        return
    bench = Benchmark("train", f"What does a training step at {BATCH} x {TOKENS} cost beside PyTorch?")
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = _examples(Path(scratch))
        for threads in (1, 2):
            for _ in range(PAIRS):
                for name, measured in _in_turn(bundle, data, Path(scratch), threads):
                    runs.setdefault(f"{name}, {threads} threads", []).append(measured)
    _summarise(bench, runs)
    bench.details["runs"] = runs
    bench.finish(lambda figure: _draw(figure, runs))


def _precisions(fp32: Path, names: list[str]) -> None:
    """Hold bundles of other precisions against float32's."""
    bench = Benchmark("train-precisions", f"What does a step at {BATCH} x {TOKENS} cost with weights in few bits?")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("fp32", *names)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, bundles = _examples(folder), {"fp32": fp32}
        for name in names:
            chosen = Options(n_labels=2, precision=name)  # type: ignore[arg-type]  # Options' caller is the shell
            bundles[name] = export("minilm", chosen, folder / name).folder
        for _ in range(PAIRS):
            for name, bundle in bundles.items():
                runs[name].append(_edgefold(bundle, data, folder, threads=1))
    for name in names:
        for key, what in (("train_s", "step_time"), ("peak_memory_bytes", "peak_memory")):
            ratios = [a[key] / b[key] for a, b in zip(runs[name], runs["fp32"], strict=True)]
            bench.summary[f"{name}_{what}_ratio_to_fp32"] = statistics.median(ratios)
        bench.goals[f"{name}_step_time_ratio_to_fp32"] = (0, 1.0)
        bench.goals[f"{name}_peak_memory_ratio_to_fp32"] = (0, 0.75)
    bench.details["runs"] = runs
    bench.finish(lambda figure: _draw(figure, runs))


def _in_turn(bundle: Path, data: Path, out: Path, threads: int) -> list[tuple[str, dict[str, float]]]:
    return [
        ("edgefold", _edgefold(bundle, data, out, threads)),
        ("eager", _torch("eager", threads)),
        ("sdpa", _torch("sdpa", threads)),
    ]


def _edgefold(bundle: Path, data: Path, out: Path, threads: int) -> dict[str, float]:
    job = TrainJob(bundle=str(bundle), data=str(data), out=str(out), plan=PLAN, threads=threads)
    result = run_job(job, deadline_s=600)
    return {"train_s": result.train_s, "peak_memory_bytes": result.peak_memory_bytes}


def _torch(attention: str, threads: int) -> dict[str, float]:
    options = {"attention": attention, "steps": STEPS, "batch": BATCH, "tokens": TOKENS, "threads": threads}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.torch_peer", *arguments], check=True, capture_output=True, text=True
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _examples(folder: Path) -> Path:
    """Write texts that are all longer than ``TOKENS``, so that every batch is full."""
    path = folder / "full.jsonl"
    lines = (json.dumps({"text": f"word {i} " * TOKENS, "label": i % 2}) for i in range(STEPS * BATCH))
    path.write_text("\n".join(lines))
    return path


def _summarise(bench: Benchmark, runs: dict[str, list[dict[str, float]]]) -> None:
    for threads in (1, 2):
        ours = runs[f"edgefold, {threads} threads"]
        for peer in ("eager", "sdpa"):
            theirs = runs[f"{peer}, {threads} threads"]
            for key, name in (("train_s", "step_time"), ("peak_memory_bytes", "peak_memory")):
                ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
                bench.summary[f"{name}_ratio_to_{peer}_{threads}_threads"] = statistics.median(ratios)
        bench.summary[f"trainer_peak_{threads}_threads_mb"] = max(one["peak_memory_bytes"] for one in ours) / MB
        bench.goals[f"trainer_peak_{threads}_threads_mb"] = (0, 300)
        bench.goals[f"step_time_ratio_to_eager_{threads}_threads"] = (0, 0.6)
        bench.goals[f"peak_memory_ratio_to_eager_{threads}_threads"] = (0, 0.45)
    for peer in ("eager", "sdpa"):
        figures = {
            "step_ms_2_threads": 1000 * statistics.median(one["train_s"] for one in runs[f"{peer}, 2 threads"]) / STEPS,
            "peak_memory_mb": max(one["peak_memory_bytes"] for one in runs[f"{peer}, 2 threads"]) / MB,
        }
        bench.peers.append(Peer(f"PyTorch {peer}", "measured in this run, in turn", figures))


def _draw(figure: Any, runs: dict[str, list[dict[str, float]]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for axes, key, unit, scale in (
        (figure.add_subplot(1, 2, 1), "train_s", "ms a step", 1000 / STEPS),
        (figure.add_subplot(1, 2, 2), "peak_memory_bytes", "peak MB", 1 / MB),
    ):
        names = list(runs)
        bars = axes.barh(names, [scale * statistics.median(one[key] for one in runs[name]) for name in names])
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.margins(x=0.15)


if __name__ == "__main__":
    main()
