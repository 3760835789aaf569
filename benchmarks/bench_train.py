"""What does a training step cost on a device, beside PyTorch?

For each family one model (``benchmarks/train_cases.py``) with LoRA r=8, AdamW, on one thread: the trainer that agents
start with every engine and precision, PyTorch eager, and torch.compile, whole processes in turn. A ratio is of two runs
of one turn, and the median is reported; times leave out the first step, in which an engine loads and inductor compiles.
What cannot be, or is not installed (``make engines``), is a gap with its reason. ``--families``, ``--engines``,
``--precisions`` and ``--peers`` choose; sdpa (PyTorch's fused attention) is a peer by name, dinov2 and fracast are
families by name. Bundles are kept in out/bench/train for the next run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.record import Benchmark, print_table
from benchmarks.train_cases import CASES, write_model
from benchmarks.train_cells import PEERS, Gap, Way, export_cells, prepare, run_cell

if TYPE_CHECKING:
    from benchmarks.train_cells import Cell, Prepared

FAMILIES: Final = ("bert", "gpt2", "llama", "vit", "clip", "patchtst")
ENGINES: Final = ("portable", "ort-training", "litert")
PRECISIONS: Final = ("fp32", "fp16", "int8", "nb8", "nb4")
FEW: Final = ("fp32", "nb8", "nb4")  # of families other than the first, unless asked for
FP32, EAGER, COMPILED = Way("portable"), Way("eager"), Way("compile")
HEAD: Final = ("", "step ms", "of eager", "of compile", "of fp32", "peak MB", "of eager", "working set MB", "of fp32")
MEMORY: Final = ("peak_mb", "working_set_mb")
# What each ratio holds a way against, and by which figure.
RATIOS: Final = {
    "step_time_to_eager": (EAGER, "step_s"),
    "step_time_to_compile": (COMPILED, "step_s"),
    "step_time_to_fp32": (FP32, "step_s"),
    "peak_memory_to_eager": (EAGER, "peak_mb"),
    "working_set_to_fp32": (FP32, "working_set_mb"),
}
# The most that a ratio of the portable engine should be, by precision.
GOALS: Final = {
    ("fp32", "step_time_to_eager"): 0.6,
    ("fp32", "peak_memory_to_eager"): 0.45,
    **{(few, "step_time_to_fp32"): 1.0 for few in ("nb8", "nb4")},
    **{(few, "working_set_to_fp32"): 0.75 for few in ("nb8", "nb4")},
}

Cells = dict[Way, list["Cell"]]
Gaps = dict[Way, Gap]


def main() -> None:
    """Measure and report."""
    options = _options()
    bench = Benchmark("train", "What does a training step cost beside PyTorch?")
    families: list[str] = options.families.split(",")
    ways = {name: _ways(name, options) for name in families}
    cells: dict[str, Cells] = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-train-") as name:
        models = {family: write_model(CASES[family], Path(name) / family) for family in families}
        bundles, gaps = _export_all(ways, models, options.jobs)
        for family in families:
            if (family, FP32) in bundles:
                ready = prepare(
                    CASES[family],
                    bundles[family, FP32],
                    models[family],
                    Path(name),
                    n_steps=options.steps,
                    threads=options.threads,
                )
                of_family = {way: bundles.get((family, way)) for way in ways[family]}
                cells[family] = _turns(ready, of_family, gaps[family], options.turns)
            _report(bench, family, cells.get(family, {}), gaps[family])
    bench.details |= {
        "threads": options.threads,
        "cells": {family: {way.name: runs for way, runs in found.items()} for family, found in cells.items()},
        "gaps": {family: {way.name: gap.why for way, gap in found.items()} for family, found in gaps.items()},
    }
    bench.finish(lambda figure: _draw(figure, cells))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(FAMILIES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument(
        "--precisions", help=f"of {', '.join(PRECISIONS)}; by default all of bert, {', '.join(FEW)} of the others"
    )
    parser.add_argument("--peers", default="eager,compile", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2, help="exports at once")
    options = parser.parse_args()
    known = {"families": CASES, "engines": ENGINES, "precisions": PRECISIONS, "peers": PEERS}
    for name, words in known.items():
        wrong = [word for word in (getattr(options, name) or "").split(",") if word and word not in words]
        if wrong:
            parser.error(f"--{name}: no {wrong[0]!r}; there are {', '.join(words)}")
    return options


def _ways(family: str, options: argparse.Namespace) -> list[Way]:
    """Return how a family is trained; the portable float32 always, since all others are held against it."""
    chosen = options.precisions.split(",") if options.precisions else PRECISIONS if family == "bert" else FEW
    engines = options.engines.split(",")
    ours = [Way("portable", one) for one in chosen if one != "fp32" and "portable" in engines]
    others = [Way(one) for one in engines if one != "portable"]
    return [FP32, *ours, *others, *(Way(one) for one in options.peers.split(",") if one)]


def _export_all(
    ways: dict[str, list[Way]], models: dict[str, str], n_jobs: int
) -> tuple[dict[tuple[str, Way], Path], dict[str, Gaps]]:
    """Return the bundles of all cells, and why some have none; the engines of one precision share an export."""
    wanted = [
        (family, [way for way in own if way.precision == precision and not way.is_peer])
        for family, own in ways.items()
        for precision in dict.fromkeys(way.precision for way in own)
    ]
    gaps: dict[str, Gaps] = {family: {} for family in ways}
    bundles = {}
    with ThreadPoolExecutor(n_jobs) as pool:
        done = pool.map(lambda one: export_cells(CASES[one[0]], one[1], models[one[0]]), wanted)
        for (family, _), cells in zip(wanted, done, strict=True):
            for way, found in cells.items():
                if isinstance(found, Gap):
                    gaps[family][way] = found
                else:
                    bundles[family, way] = found
                print(f"{family}: {way.name}: {found.why if isinstance(found, Gap) else 'exported'}", flush=True)
    return bundles, gaps


def _turns(ready: Prepared, bundles: dict[Way, Path | None], gaps: Gaps, n_turns: int) -> Cells:
    """Run every way in turn; one that fails becomes a gap and is not tried again."""
    cells: Cells = defaultdict(list)
    for _ in range(n_turns):
        for way, bundle in bundles.items():
            if way in gaps:
                continue
            found = run_cell(ready, way, bundle)
            if isinstance(found, Gap):
                gaps[way] = found
                cells.pop(way, None)
            else:
                cells[way].append(found)
    return dict(cells)


def _ratio(cells: Cells, way: Way, other: Way, key: str) -> float | None:
    """Return the median over the turns of ``way`` by ``other``; None where one of them has a gap."""
    if way not in cells or other not in cells:
        return None
    return statistics.median(a[key] / b[key] for a, b in zip(cells[way], cells[other], strict=True))


def _report(bench: Benchmark, family: str, cells: Cells, gaps: Gaps) -> None:
    """Print a family's table and add what it says to the summary."""
    rows = []
    for way, runs in cells.items():
        ratios = {what: _ratio(cells, way, other, key) for what, (other, key) in RATIOS.items()}
        for what, ratio in ratios.items():
            if ratio is not None and RATIOS[what][0] != way and not (way.is_peer and RATIOS[what][0] == FP32):
                _summarise(bench, family, way, what, ratio)
        step, peak, working = (statistics.median(run[key] for run in runs) for key in ("step_s", *MEMORY))
        shown = {what: "" if ratio is None else f"{ratio:.2f}" for what, ratio in ratios.items()}
        times = [shown["step_time_to_eager"], shown["step_time_to_compile"], shown["step_time_to_fp32"]]
        memory = [f"{peak:.0f}", shown["peak_memory_to_eager"], f"{working:.0f}", shown["working_set_to_fp32"]]
        rows.append((way.name, f"{1000 * step:.1f}", *times, *memory))
    print(f"\n{family}: {CASES[family].task}, {CASES[family].shape}")
    print_table(HEAD, rows)
    for way, gap in gaps.items():
        print(f"{way.name}: none: {gap.why}")


def _summarise(bench: Benchmark, family: str, way: Way, what: str, ratio: float) -> None:
    name = f"{family}_{way.name.replace(' ', '_').replace('-', '_')}_{what}_ratio".lower()
    bench.summary[name] = ratio
    most = GOALS.get(("fp32" if way == FP32 else way.precision, what)) if way.engine == "portable" else None
    if most is not None:
        bench.goals[name] = (0, most)


def _draw(figure: Any, cells: dict[str, Cells]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    ways = list(dict.fromkeys(way for found in cells.values() for way in found if way != EAGER))
    for place, (key, what) in enumerate((("step_s", "time of a step"), ("peak_mb", "peak memory")), start=1):
        axes = figure.add_subplot(1, 2, place)
        for number, way in enumerate(ways):
            heights = [_ratio(found, way, EAGER, key) or 0.0 for found in cells.values()]
            left = [row + (number - len(ways) / 2) * 0.8 / len(ways) for row in range(len(cells))]
            axes.bar(left, heights, 0.8 / len(ways), label=way.name)
        axes.axhline(1, color="grey", linestyle=":")
        axes.set_xticks(range(len(cells)), list(cells))
        axes.set_ylabel(f"{what}, of PyTorch eager's")
    figure.axes[0].legend(fontsize=7)


if __name__ == "__main__":
    main()
