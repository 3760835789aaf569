"""What do frozen weights in few bits cost in accuracy and in memory, on real text?

MiniLM, LoRA r=8 and a head, trained by the trainer process on four domains of rated sentences at once and tested on
2,000 others. One bundle a precision; the seeds order the examples, and every precision sees the same orders. The
measure is the mean over the seeds against float32 of the same seeds. Needs no quiet machine: nothing is timed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Benchmark
from export.adapt import Options
from export.bundle import export_bundle
from export.heavy import quiet
from export.quantise import PRECISIONS
from host.trainer_process import run_job
from models.sentiment import fetch_sentiment, write_splits
from protocol.jobs import UPDATE_FILE, EvaluateJob, TrainJob
from protocol.plan import Codec, Optimizer, Plan

MB: Final = 2**20
DEADLINE_S: Final = 3600.0
GOALS: Final = {"nb8": 0.5, "nb4": 1.5}  # points below float32

Run = dict[str, float]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=400, help="a domain")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    quiet()
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-precision-") as name:
        scratch = Path(name)
        splits = write_splits(fetch_sentiment(Path("out/data")), scratch / "data", n_train=options.examples)
        train = scratch / "train.jsonl"
        train.write_text("".join(path.read_text() for path in splits.train.values()))
        for precision in dict.fromkeys(["fp32", *options.precisions.split(",")]):
            chosen = Options(n_labels=2, precision=precision)  # type: ignore[arg-type]  # Options' caller is the shell
            bundle = export_bundle("minilm", chosen, scratch / precision).folder
            for seed in range(options.seeds):
                run = _run(bundle, train, splits.test, scratch, Plan(epochs=options.epochs, seed=seed, **PLAN))
                runs.setdefault(precision, []).append(run)
                print(f"{precision} seed {seed}: " + "  ".join(f"{k} {v:.4g}" for k, v in run.items()), flush=True)
    bench = Benchmark("precision", "What do frozen weights in few bits cost?")
    _summarise(bench, runs)
    bench.details["runs"] = runs
    bench.finish(lambda figure: _draw(figure, runs))


PLAN: Final[dict[str, Any]] = {
    "batch_size": 16,
    "max_tokens": 64,
    "optimizer": Optimizer(name="adamw", learning_rate=1e-3),
    "clip_grad_norm": 1.0,
    "codec": Codec(name="float32"),  # so that nothing but the weights' storage differs
}


def _run(bundle: Path, train: Path, tests: dict[str, Path], scratch: Path, plan: Plan) -> Run:
    out = scratch / "out"
    out.mkdir(exist_ok=True)
    job = TrainJob(bundle=str(bundle), data=str(train), out=str(out), plan=plan)
    trained = run_job(job, deadline_s=DEADLINE_S)
    adapter = _applied(bundle, out)
    sets = {name: str(path) for name, path in tests.items()}
    found = run_job(EvaluateJob(bundle=str(bundle), sets=sets, adapter=str(adapter)), deadline_s=DEADLINE_S)
    n_examples = sum(one.n_examples for one in found.sets.values())
    return {
        "accuracy_percent": 100 * sum(one.n_correct for one in found.sets.values()) / n_examples,
        "loss": trained.loss,
        "peak_memory_mb": trained.peak_memory_bytes / MB,
        "weights_mb": (bundle / "weights.bin").stat().st_size / MB,
    }


def _applied(bundle: Path, out: Path) -> Path:
    """Return the trained adapter as a payload: the bundle's own and the update."""
    from host.arrays import load_vector  # noqa: PLC0415 - beside its use
    from protocol import codec  # noqa: PLC0415
    from protocol.bundle import ADAPTER, MANIFEST, Manifest  # noqa: PLC0415

    n_params = Manifest.from_bytes((bundle / MANIFEST).read_bytes()).adapter.n_params
    theta = load_vector(bundle / ADAPTER, n_values=n_params)
    theta = theta + codec.decode((out / UPDATE_FILE).read_bytes(), n_values=n_params)
    path = out / "adapter.payload"
    path.write_bytes(codec.encode(theta, Codec(name="float32")))
    return path


def _summarise(bench: Benchmark, runs: dict[str, list[Run]]) -> None:
    for precision, found in runs.items():
        accuracy = [run["accuracy_percent"] for run in found]
        bench.summary[f"{precision}_accuracy_percent"] = statistics.mean(accuracy)
        lost = [b["accuracy_percent"] - a for a, b in zip(accuracy, runs["fp32"], strict=True)]
        if precision != "fp32":
            bench.summary[f"{precision}_accuracy_lost_points"] = statistics.mean(lost)
        if precision in GOALS:
            bench.goals[f"{precision}_accuracy_lost_points"] = (-100, GOALS[precision])
        bench.summary[f"{precision}_trainer_peak_mb"] = max(run["peak_memory_mb"] for run in found)
        bench.summary[f"{precision}_weights_mb"] = found[0]["weights_mb"]


def _draw(figure: Any, runs: dict[str, list[Run]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for place, (key, unit) in enumerate(
        (("accuracy_percent", "accuracy, %"), ("peak_memory_mb", "trainer's peak, MB")), start=1
    ):
        axes = figure.add_subplot(1, 2, place)
        for x, found in enumerate(runs.values()):
            axes.plot([x] * len(found), [run[key] for run in found], "o")
        axes.set_xticks(range(len(runs)), list(runs))
        axes.set_ylabel(unit)


if __name__ == "__main__":
    main()
