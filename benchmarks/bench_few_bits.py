"""Do frozen weights in few bits cost less memory than float32, and no time?

MiniLM, LoRA r=8 and a head, one thread, texts of random words that fill every batch. For each shape of a batch, trainer
processes of every precision in turn; a ratio is of two runs of one turn, and the median is reported. Activations are
float32 in every precision, so the ratio of memory is the better the smaller the batch is beside the model: goals are
set where a small board trains (512 tokens a batch and less: what ``--tier pi-zero2`` chooses) and not above, where the
table says what there is. Both counters of memory are in ``benchmarks/residency.py``.

``--shapes 1x32,4x128 --precisions nb4 --turns 1`` does some; ``nb8+checkpoint`` is a precision too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.full_texts import write_full_texts
from benchmarks.record import Benchmark, print_table
from benchmarks.residency import in_small_pages, train_watched
from export.adapt import Options
from export.bundle import export_bundle
from export.heavy import quiet
from export.tiers import TIERS, choose
from protocol.bundle import MemoryPeak
from protocol.jobs import TrainJob
from protocol.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPES: Final = ("1x32", "1x128", "8x64", "4x128", "16x64", "8x128", "16x128")
PRECISIONS: Final = ("nb8", "nb4", "nb8+checkpoint")
LONGEST: Final = 128
SMALL: Final = 512  # tokens of a batch; up to here the goals hold
STEPS: Final = 8
MB: Final = 2**20
DEADLINE_S: Final = 1200.0

Run = dict[str, float]
Row = dict[str, Any]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="batch x tokens, joined by commas")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the bundles; those that are there are used")
    options = parser.parse_args()
    quiet()
    names = ("fp32", *options.precisions.split(","))
    bench = Benchmark("few-bits", "What do frozen weights in few bits cost beside float32?")
    with tempfile.TemporaryDirectory(prefix="edgefold-few-bits-") as name:
        scratch = Path(name)
        bundles = {one: _exported(options.keep or scratch, one) for one in names}
        bench.details["pi_zero2"] = _choice(bundles)
        rows: list[Row] = []
        for shape in options.shapes.split(","):
            rows += _rows(bundles, shape, options.turns, scratch)
    for row in rows:
        _summarise(bench, row)
    bench.details["rows"] = rows
    _print(rows)
    print(f"  a tier with these bundles: {bench.details['pi_zero2']}")
    bench.finish(lambda figure: _draw(figure, rows))


def _exported(where: Path, name: str) -> Path:
    """Return a bundle of MiniLM in the precision ``name``."""
    folder = where / name
    precision, _, again = name.partition("+")
    chosen = Options(n_labels=2, precision=precision, checkpoint=bool(again), max_tokens=LONGEST)  # type: ignore[arg-type]  # the shell's
    if not (folder / "manifest.json").exists():
        export_bundle("minilm", chosen, folder)
        print(f"exported {name}", flush=True)
    in_small_pages(folder)
    return folder


def _choice(bundles: dict[str, Path]) -> str:
    """Return what the smallest tier would choose among the bundles that there are."""

    def peaks(precision: str, checkpoint: bool) -> tuple[MemoryPeak, ...]:  # noqa: FBT001 - as choose asks
        folder = bundles.get(precision + ("+checkpoint" if checkpoint else ""))
        if folder is None:
            return ()
        manifest = json.loads((folder / "manifest.json").read_bytes())
        return tuple(MemoryPeak(**one) for one in manifest["memory"])

    return choose(TIERS["pi-zero2"], peaks).reason


def _rows(bundles: dict[str, Path], shape: str, turns: int, scratch: Path) -> list[Row]:
    """Return a row for each precision at one shape."""
    batch, seq = (int(part) for part in shape.split("x"))
    data = write_full_texts(scratch / "texts.jsonl", bundle=bundles["fp32"], n_texts=STEPS * batch, seq=seq)
    runs: dict[str, list[Run]] = {name: [] for name in bundles}
    for _ in range(turns):
        for name, bundle in bundles.items():
            runs[name].append(_run(bundle, data, batch, seq, scratch))
    rows = []
    for name, own in runs.items():
        ratios = {f"{key}_ratio": _median_ratio(own, runs["fp32"], key) for key in own[0]}
        medians = {key: statistics.median(one[key] for one in own) for key in own[0]}
        rows.append({"shape": shape, "tokens": batch * seq, "precision": name, **medians, **ratios})
    return rows


def _run(bundle: Path, data: Path, batch: int, seq: int, scratch: Path) -> Run:
    plan = Plan(batch_size=batch, max_tokens=seq)
    job = TrainJob(bundle=str(bundle), data=str(data), out=str(scratch), plan=plan)
    result, memory = train_watched(job, deadline_s=DEADLINE_S)
    return {
        "step_s": (result.train_s - result.first_step_s) / max(result.n_steps - 1, 1),
        "peak_mb": memory.peak_bytes / MB,
        "working_set_mb": memory.working_set_bytes / MB,
    }


def _median_ratio(ours: Sequence[Run], theirs: Sequence[Run], key: str) -> float:
    return statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))


def _summarise(bench: Benchmark, row: Row) -> None:
    if row["precision"] == "fp32":
        return
    name = f"{row['precision'].replace('+', '_')}_{row['shape']}"
    again = row["precision"].endswith("checkpoint")
    for key, what, most in (("step_s", "step_time", 1.0), ("working_set_mb", "working_set", 0.75)):
        bench.summary[f"{name}_{what}_ratio_to_fp32"] = row[f"{key}_ratio"]
        if row["tokens"] <= SMALL and not (again and what == "step_time"):  # computing again takes time
            bench.goals[f"{name}_{what}_ratio_to_fp32"] = (0, most)
    bench.summary[f"{name}_peak_ratio_to_fp32"] = row["peak_mb_ratio"]


def _print(rows: list[Row]) -> None:
    head = ("batch x tokens", "weights", "step ms", "of fp32", "working set MB", "of fp32", "peak MB", "of fp32")
    columns = (("step_s", 1000), ("working_set_mb", 1), ("peak_mb", 1))
    lines = []
    for row in rows:
        cells = [cell for key, by in columns for cell in (f"{by * row[key]:.0f}", f"{row[f'{key}_ratio']:.2f}")]
        lines.append((row["shape"], row["precision"], *cells))
    print_table(head, lines)


def _draw(figure: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    for place, (key, what, goal) in enumerate(
        (("step_s", "time of a step", 1.0), ("working_set_mb", "working set", 0.75)), start=1
    ):
        axes = figure.add_subplot(1, 2, place)
        for name in dict.fromkeys(row["precision"] for row in rows if row["precision"] != "fp32"):
            own = sorted((row for row in rows if row["precision"] == name), key=lambda row: row["tokens"])
            axes.plot([row["tokens"] for row in own], [row[f"{key}_ratio"] for row in own], "o-", label=name)
        axes.axhline(goal, color="grey", linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens a batch")
        axes.set_ylabel(f"{what}, of float32's")
        axes.set_ylim(bottom=0)
        axes.legend()


if __name__ == "__main__":
    main()
