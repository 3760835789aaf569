"""What does an export of a deep model or of long texts cost, and what comes out?

BERT-like encoders with random weights: layers x width x longest text. Each export is a process of its own: seconds of
every pass, peak memory, operators, the bundle's bytes, and what a step of one example of that length then takes. By
default small and few; ``--long`` adds 12 layers of 768 and 24 layers of 256 with texts of 512 and 1024.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.random_bert import write_random_bert
from benchmarks.record import Benchmark

SHORT: Final = ("2x64x128", "6x64x128", "12x64x128", "24x64x128", "24x64x1024")
LONG: Final = (*SHORT, "12x768x512", "12x768x1024", "24x256x512", "24x256x1024")
MB: Final = 2**20

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """A model and its longest text."""

    layers: int
    width: int
    tokens: int

    @classmethod
    def read(cls, text: str) -> Size:
        """Return the size that ``text`` such as ``12x768x512`` names."""
        return cls(*(int(part) for part in text.split("x")))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", help=f"Joined by commas; by default {','.join(SHORT)}.")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--child", metavar="SIZE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_export(Size.read(options.child))))
        return
    rows = [_in_a_process(size) for size in (options.sizes or ",".join(LONG if options.long else SHORT)).split(",")]
    bench = Benchmark("export", "What does exporting deep models and long texts cost?")
    for row in rows:
        name = f"{row['layers']}_layers_{row['width']}_wide_{row['tokens']}_tokens"
        bench.summary[f"{name}_seconds"] = row["seconds"]
        bench.summary[f"{name}_operators"] = row["operators"]
    bench.details["rows"] = rows
    bench.finish(lambda figure: _draw(figure, rows))


def _in_a_process(size: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.bench_export", "--child", size]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def _export(size: Size) -> Row:
    """Export one model in this process and return what it cost."""
    from export.adapt import Options  # noqa: PLC0415 - torch, only in the child
    from export.bundle import export_bundle  # noqa: PLC0415
    from export.heavy import quiet  # noqa: PLC0415
    from export.inspect import inspect  # noqa: PLC0415
    from host.memory import peak_bytes  # noqa: PLC0415

    quiet()
    began: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-export-") as name:
        model = write_random_bert(Path(name) / "model", layers=size.layers, width=size.width, tokens=size.tokens)
        started = time.monotonic()
        done = export_bundle(
            str(model),
            Options(n_labels=2, max_tokens=size.tokens),
            Path(name) / "bundle",
            watch=lambda one: began.update({one: time.monotonic()}),
        )
        ended = time.monotonic()
        peak = peak_bytes()
        train = next(graph for graph in inspect(done.folder).graphs if graph.file == "train.onnx")
        load_s, step_s = _load_and_step(done.folder, size)
    ends = [*list(began.values())[1:], ended]
    passes = {one: round(end - start, 1) for (one, start), end in zip(began.items(), ends, strict=True)}
    return {
        **asdict(size),
        "seconds": round(ended - started, 1),
        "export_peak_mb": round(peak / MB),
        "operators": sum(train.operators.values()),
        "graph_kb": round(train.bytes / 1024),
        "bundle_mb": round(done.n_bytes / MB, 1),
        "load_s": round(load_s, 2),
        "step_s": round(step_s, 2),
        **{f"{one}_s": seconds for one, seconds in passes.items()},
    }


def _load_and_step(folder: Path, size: Size) -> tuple[float, float]:
    """Return the seconds of the first step (with the session) beyond the second, and of the second."""
    from edge_agent.trainer.portable import PortableEngine  # noqa: PLC0415 - onnxruntime, only in the child

    engine = PortableEngine(train=folder / "train.onnx", evaluate=folder / "eval.onnx", threads=1)
    theta = np.fromfile(folder / "adapter.f32", "<f4")
    ids = np.random.default_rng(0).integers(0, 1000, (1, size.tokens))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.zeros(1, np.int64)}
    marks = [time.monotonic()]
    for _ in range(2):
        engine.loss_and_gradient(theta, batch)
        marks.append(time.monotonic())
    return (marks[1] - marks[0]) - (marks[2] - marks[1]), marks[2] - marks[1]


def _draw(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for place, key in enumerate(("seconds", "operators", "export_peak_mb"), start=1):
        axes = figure.add_subplot(1, 3, place)
        for row in rows:
            axes.plot(row["layers"], row[key], "o", label=f"{row['width']} wide, {row['tokens']} tokens")
        axes.set_xlabel("layers")
        axes.set_ylabel(key.replace("_", " "))
        axes.set_ylim(bottom=0)


if __name__ == "__main__":
    main()
