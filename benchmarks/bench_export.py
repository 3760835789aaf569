"""What does an export of a deep model with long texts and dropout cost, and what comes out?

BERT-like encoders with random weights: layers x width x longest text, by default 6, 12 and 24 layers, texts of up to
512 tokens, with dropout. Each export is a process of its own: seconds of every pass, peak memory, operators, bytes of
the graph, and what loading it and a step of one example of 128 tokens and of the longest then take. Beside that the
same graph with its repeated layers as functions (``benchmarks/layer_functions.py``), which docs/adr/0028 chose against.
Two exports run at once (``--jobs``); ``--sizes 24x256x1024,12x768x512`` does others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.random_bert import write_random_bert
from benchmarks.record import Benchmark, print_table

if TYPE_CHECKING:
    from protocol.dropout import DropoutFacts

SIZES: Final = ("24x256x512", "12x256x512", "6x256x512")  # the longest first, so that two at once end together
SHORT: Final = 128  # tokens
DROPOUT: Final = 0.1
STEPS: Final = 3
COLUMNS: Final = {
    "layers": "layers",
    "seconds": "export s",
    "trace_s": "trace s",
    "lower_s": "lower s",
    "parity_s": "parity s",
    "export_peak_mb": "peak MB",
    "operators": "operators",
    "graph_kb": "graph kB",
    "functions_kb": "as functions kB",
    "load_s": "load CPU s",
    "functions_load_s": "as functions CPU s",
    "short_step_s": f"{SHORT} tokens CPU s",
    "step_s": "longest CPU s",
}
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
    parser.add_argument("--sizes", default=",".join(SIZES), help="layers x width x tokens, joined by commas")
    parser.add_argument("--dropout", type=float, default=DROPOUT)
    parser.add_argument("--jobs", type=int, default=2, help="exports at once")
    parser.add_argument("--child", metavar="SIZE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_export(Size.read(options.child), options.dropout)))
        return
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda size: _in_a_process(size, options.dropout), options.sizes.split(",")))
    rows.sort(key=lambda row: (row["width"], row["layers"], row["tokens"]))
    bench = Benchmark("export", "What does exporting deep models and long texts cost?")
    for row in rows:
        name = f"{row['layers']}_layers_{row['width']}_wide_{row['tokens']}_tokens"
        for key in ("seconds", "trace_s", "graph_kb", "operators", "load_s", "functions_kb", "functions_load_s"):
            bench.summary[f"{name}_{key}"] = row[key]
    _judge(bench, rows)
    bench.details["rows"] = rows
    print_table(list(COLUMNS.values()), [[str(row[key]) for key in COLUMNS] for row in rows])
    bench.finish(lambda figure: _draw(figure, rows))


def _judge(bench: Benchmark, rows: list[Row]) -> None:
    """Hold the deepest model against the shallowest of its width: what grows faster than the layers is not sane."""
    for width in dict.fromkeys(row["width"] for row in rows):
        own = [row for row in rows if row["width"] == width]
        first, last = min(own, key=lambda row: row["layers"]), max(own, key=lambda row: row["layers"])
        if first["layers"] == last["layers"]:
            continue
        for key in ("graph_kb", "trace_s"):
            name = f"{width}_wide_{key.rsplit('_', 1)[0]}_growth_by_layers_ratio"
            bench.summary[name] = (last[key] / first[key]) / (last["layers"] / first["layers"])
            bench.goals[name] = (0, 1.5)


def _in_a_process(size: str, dropout: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.bench_export", "--child", size, "--dropout", str(dropout)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def _export(size: Size, dropout: float) -> Row:
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
            Options(n_labels=2, max_tokens=size.tokens, dropout=dropout),
            Path(name) / "bundle",
            watch=lambda one: began.update({one: time.monotonic()}),
        )
        ended = time.monotonic()
        peak = peak_bytes()
        train = next(graph for graph in inspect(done.folder).graphs if graph.file == "train.onnx")
        graphs = _both_graphs(done.folder, done.manifest.dropout, size)
    ends = [*list(began.values())[1:], ended]
    passes = {one: round(end - start, 1) for (one, start), end in zip(began.items(), ends, strict=True)}
    return {
        **asdict(size),
        "dropout": dropout,
        "seconds": round(ended - started, 1),
        "export_peak_mb": round(peak / MB),
        "operators": sum(train.operators.values()),
        "graph_kb": round(train.bytes / 1024),
        "bundle_mb": round(done.n_bytes / MB, 1),
        **graphs,
        **{f"{one}_s": seconds for one, seconds in passes.items()},
    }


def _both_graphs(folder: Path, dropout: DropoutFacts | None, size: Size) -> Row:
    """Return what loading and steps take of the training graph, and of it with its layers as functions."""
    import onnx  # noqa: PLC0415 - only in the child

    from benchmarks.layer_functions import outlined  # noqa: PLC0415

    graph = onnx.load(folder / "train.onnx", load_external_data=False)
    functions, n_saved = outlined(graph)
    (folder / "functions.onnx").write_bytes(functions.SerializeToString())
    del graph.graph.value_info[:]  # a function has no notes of its values' shapes; without them it is a fair pair
    load_s, short_s, step_s, loss = _load_and_steps(folder, "train.onnx", dropout, size)
    functions_load_s, _, functions_step_s, same = _load_and_steps(folder, "functions.onnx", dropout, size)
    if loss != same:
        message = f"as functions the loss is {same} and not {loss}"
        raise SystemExit(message)
    return {
        "bare_graph_kb": round(graph.ByteSize() / 1024),
        "functions_kb": round(functions.ByteSize() / 1024),
        "functions_saved_operators": n_saved,
        "load_s": round(load_s, 2),
        "short_step_s": round(short_s, 3),
        "step_s": round(step_s, 3),
        "functions_load_s": round(functions_load_s, 2),
        "functions_step_s": round(functions_step_s, 3),
    }


def _load_and_steps(
    folder: Path, file: str, dropout: DropoutFacts | None, size: Size
) -> tuple[float, float, float, float]:
    """Return the CPU seconds of loading, of a short and of the longest step of one example, and the last loss."""
    from edge_agent.trainer.portable import PortableEngine  # noqa: PLC0415 - onnxruntime, only in the child
    from host.dropout_masks import masks_of_step  # noqa: PLC0415

    engine = PortableEngine(train=folder / file, evaluate=folder / "eval.onnx", threads=1)
    theta = np.fromfile(folder / "adapter.f32", "<f4")
    loss, seconds = 0.0, []
    for tokens in [min(SHORT, size.tokens)] * (STEPS + 1) + [size.tokens] * STEPS:
        ids = np.random.default_rng(0).integers(0, 1000, (1, tokens))
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.zeros(1, np.int64)}
        if dropout is not None:
            batch |= masks_of_step(dropout, theta, batch, seed=0)
        began = time.process_time()  # one thread, and other exports may run beside
        loss, _ = engine.loss_and_gradient(theta, batch)
        seconds.append(time.process_time() - began)
    short = min(seconds[1 : STEPS + 1])
    return max(seconds[0] - short, 0.0), short, min(seconds[STEPS + 1 :]), loss


def _draw(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for place, key in enumerate(("seconds", "graph_kb", "export_peak_mb"), start=1):
        axes = figure.add_subplot(1, 3, place)
        for row in rows:
            axes.plot(row["layers"], row[key], "o", label=f"{row['width']} wide, {row['tokens']} tokens")
        axes.set_xlabel("layers")
        axes.set_ylabel(key.replace("_", " "))
        axes.set_ylim(bottom=0)


if __name__ == "__main__":
    main()
