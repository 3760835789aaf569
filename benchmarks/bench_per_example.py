"""What single examples cost: clipped in one graph, against batches of one and against a plain batch.

One bundle of MiniLM with LoRA, random words. Each way takes the same batch in turn, several times, and the shortest of
each counts. Memory is the peak of a process that does nothing else. ``python -m benchmarks.bench_per_example --model
FOLDER --batch 8 --tokens 16,32 --times 3`` asks about another model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.record import Benchmark
from edge_agent.trainer.example_gradients import clipped_points
from edge_agent.trainer.portable import open_engine
from host.arrays import load_vector
from host.bundle_folder import Bundle, open_bundle
from host.memory import peak_bytes
from protocol.bundle import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.trainer.batches import Batch
    from edge_agent.trainer.portable import PortableEngine

WAYS: Final = ("a plain batch", "one graph", "batches of one")
MB: Final = 1e6
CLIP: Final = 1.0
VOCABULARY: Final = 1000  # of MiniLM's 30,522: words that a device's texts repeat


def main() -> None:
    """Measure and report, or be the child that one way is measured in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", default="8,32,64")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--words", type=int, default=VOCABULARY)
    parser.add_argument("--child", nargs=2, metavar=("BUNDLE", "WAY"))
    options = parser.parse_args()
    lengths = [int(one) for one in options.tokens.split(",")]
    if options.child is not None:
        _child(*options.child, options.batch, max(lengths), options.words)
        return
    from export.adapt import Options  # noqa: PLC0415 - a child is measured, and torch is large
    from export.bundle import export_bundle  # noqa: PLC0415
    from export.cli import quiet  # noqa: PLC0415

    quiet()
    with tempfile.TemporaryDirectory(prefix="edgefold-per-example-") as name:
        bundle = Path(name) / "bundle"
        export_bundle(options.model, Options(n_labels=2, max_tokens=max(lengths), per_example=True), bundle)
        _report(options, bundle, lengths)


def _report(options: argparse.Namespace, bundle: Path, lengths: list[int]) -> None:
    bench = Benchmark("per-example", "What does it cost to clip each example by itself?")
    seconds = {n: _seconds(open_bundle(bundle), options.batch, n, options.words, options.times) for n in lengths}
    peaks = {way: _peak(options, bundle, way) for way in WAYS}
    for n, found in seconds.items():
        for way, value in found.items():
            print(f"{options.batch} x {n:<4} {way:<16} {1000 * value:8.1f} ms")
        plain, graph, alone = (found[way] for way in WAYS)
        bench.summary[f"one_graph_over_plain_at_{n}_fraction"] = graph / plain
        bench.summary[f"one_graph_over_ones_at_{n}_fraction"] = graph / alone
    bench.summary |= {f"peak_{way.replace(' ', '_')}_mb": peak / MB for way, peak in peaks.items()}
    bench.details = {"seconds": {str(n): found for n, found in seconds.items()}, "batch": options.batch}
    bench.finish(lambda figure: _draw(figure, seconds))


def _batch(n_examples: int, n_tokens: int, n_words: int) -> Batch:
    rng = np.random.default_rng(n_tokens)
    lengths = rng.integers(max(1, n_tokens // 2), n_tokens + 1, n_examples)
    lengths[0] = n_tokens
    mask = (np.arange(n_tokens) < lengths[:, None]).astype(np.int64)  # [batch, seq]
    ids = rng.integers(0, n_words, (n_examples, n_tokens)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 2, n_examples)}


def _ways(engine: PortableEngine, theta: np.ndarray, batch: Batch) -> dict[str, Callable[[], object]]:
    n, lengths = len(batch["labels"]), batch["attention_mask"].sum(1)
    counts = np.ones(n, np.float32)

    def alone() -> None:
        total = np.zeros(theta.size, np.int64)
        for i in range(n):
            one = {name: (v[i] if v.ndim == 1 else v[i, : lengths[i]])[None] for name, v in batch.items()}
            total += clipped_points(engine.loss_and_gradient(theta, one)[1], clip=CLIP)

    return dict(
        zip(
            WAYS,
            (
                lambda: engine.loss_and_gradient(theta, batch),
                lambda: engine.clipped_points(theta, batch, counts=counts, clip=CLIP),
                alone,
            ),
            strict=True,
        )
    )


def _opened(bundle: Bundle) -> tuple[PortableEngine, np.ndarray]:
    theta = load_vector(bundle.path(ADAPTER), n_values=bundle.layout.n_params)
    return open_engine(bundle.folder, bundle.manifest, threads=2), theta


def _seconds(bundle: Bundle, n_examples: int, n_tokens: int, n_words: int, times: int) -> dict[str, float]:
    engine, theta = _opened(bundle)
    ways = _ways(engine, theta, _batch(n_examples, n_tokens, n_words))
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(times + 1):  # the first loads and does not count, being the longest
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            least[way] = min(least[way], time.perf_counter() - began)
    return least


def _peak(options: argparse.Namespace, bundle: Path, way: str) -> int:
    command = [sys.executable, "-m", "benchmarks.bench_per_example", "--child", str(bundle), way]
    command += ["--batch", str(options.batch), "--tokens", options.tokens, "--words", str(options.words)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout)


def _child(bundle: str, way: str, n_examples: int, n_tokens: int, n_words: int) -> None:
    """Take a few steps in one way and print the peak memory of this process in bytes."""
    engine, theta = _opened(open_bundle(Path(bundle)))
    run = _ways(engine, theta, _batch(n_examples, n_tokens, n_words))[way]
    for _ in range(3):
        run()
    print(peak_bytes())


def _draw(figure: Any, seconds: dict[int, dict[str, float]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    for way in WAYS:
        axes.plot(list(seconds), [1000 * found[way] for found in seconds.values()], "o-", label=way)
    axes.set_xlabel("tokens of the longest example")
    axes.set_ylabel("step, ms")
    axes.set_ylim(bottom=0)
    axes.legend()


if __name__ == "__main__":
    main()
