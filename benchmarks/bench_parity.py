"""Does every family train with every adapter on every engine as PyTorch does?

Each cell is an export of a tiny random model: 20 AdamW steps by PyTorch and by the trainer process, loss and parameters
compared, once for each engine. A cell that cannot exist says why. All cells take hours on two cores, most of them in
LiteRT's converter; ``python -m benchmarks.bench_parity --engines portable`` does a third of them in less than an hour,
``--families gpt2,vit --adapters lora`` some. ``make engines`` installs the engines. ``--keep FILE`` writes each cell as
a line of JSON and takes those that are there already as run, so that a long run can be cut and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Benchmark
from export.adapt import Options
from export.bundle import ParityError, export_bundle
from export.engines import NEEDS, refuse_impossible
from export.heavy import quiet
from export.parity import TOLERANCE, Apart
from models.tasks import NAMED_CLASSES, TASKS
from models.tiny import TINY, write_tiny
from protocol.errors import ConfigError, EdgefoldError

ADAPTERS: Final = ("lora", "head", "soft-prompt", "prefix", "bitfit", "ia3", "full")
ENGINES: Final = tuple(NEEDS)
PORTABLE: Final = "portable"
# A tiny model with the task it is for, or with another one after a slash.
ROWS: Final = (
    *TINY,
    "bert/token-classification",
    "bert/sentence-embedding",
    "distilbert/sentence-embedding",
    "clip/named-classes",
)
N_LABELS: Final = 3
LABEL_NAMES: Final = ("w3 w4", "w5", "w6 w7 w8")

Cell = dict[str, Any]
# Of a family and an adapter, by engine.
Cells = dict[tuple[str, str], dict[str, Cell]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(ROWS))
    parser.add_argument("--adapters", default=",".join(ADAPTERS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--keep", type=Path, help="a file of cells that ran, read first and added to")
    options = parser.parse_args()
    families, adapters, engines = (one.split(",") for one in (options.families, options.adapters, options.engines))
    os.environ.setdefault("EDGEFOLD_ENGINES", str(Path(".cache/engines").absolute()))
    quiet()
    kept = _kept(options.keep)
    cells: Cells = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-parity-") as name:
        for family in families:
            for adapter in adapters:
                found = kept.get((family, adapter), {})
                missing = [one for one in engines if one not in found]
                if missing:
                    found |= _run(Path(name), family, adapter, missing)
                    _keep(options.keep, family, adapter, {one: found[one] for one in missing})
                cells[family, adapter] = {one: found[one] for one in engines}
                for engine in engines:
                    print(f"{family:<29} {adapter:<12} {engine:<13} {_text(found[engine])}", flush=True)
    _report(cells, families, adapters, engines)


def _report(cells: Cells, families: list[str], adapters: list[str], engines: list[str]) -> None:
    bench = Benchmark("parity", "How far from PyTorch is each family with each adapter on each engine after 20 steps?")
    every = [cell for found in cells.values() for cell in found.values()]
    ran = [cell for cell in every if "update" in cell]
    bench.summary = {
        "cells_that_ran_count": len(ran),
        "cells_that_cannot_exist_count": sum("why_not" in cell for cell in every),
        "cells_that_failed_count": sum("failed" in cell for cell in every),
        "cells_apart_count": sum(not cell["passed"] for cell in ran),
        "worst_loss_error_fraction": max((cell["loss"] for cell in ran), default=0.0),
        "worst_update_error_fraction": max((cell["update"] for cell in ran), default=0.0),
    }
    bench.goals = {
        "cells_that_failed_count": (0, 0),
        "cells_apart_count": (0, 0),
        "worst_loss_error_fraction": (0, TOLERANCE.loss),
        "worst_update_error_fraction": (0, TOLERANCE.update),
    }
    bench.details["cells"] = [
        {"family": family, "adapter": adapter, "engine": engine, **cell}
        for (family, adapter), found in cells.items()
        for engine, cell in found.items()
    ]
    table = [[_short(cells[family, adapter], engines) for adapter in adapters] for family in families]
    print(f"\nThe update's error by {', '.join(engines)}:")
    print(f"| | {' | '.join(adapters)} |\n|---|{'---|' * len(adapters)}")
    for family, row in zip(families, table, strict=True):
        print(f"| {family} | {' | '.join(row)} |")
    print("\nWhat cannot be:")
    for why in sorted({cell["why_not"] for cell in every if "why_not" in cell}):
        print(f"- {why}")
    bench.finish(lambda figure: _draw(figure, table, families, adapters))


def _run(folder: Path, family: str, adapter: str, engines: list[str]) -> dict[str, Cell]:
    """Return the cell of each engine: all in one export, or one by one where that fails."""
    model, _, task = family.partition("/")
    task = task or TINY[model].task
    if not (folder / model).is_dir():
        write_tiny(model, folder / model)
    names = LABEL_NAMES if task == NAMED_CLASSES else ()
    n_labels = N_LABELS if TASKS[task].has_labels else None
    options = Options(
        task=task, n_labels=n_labels, label_names=names, adapter=adapter, rank=2, n_virtual=3, max_tokens=40
    )
    cells: dict[str, Cell] = {}
    for engine in engines:
        try:
            refuse_impossible(tuple({PORTABLE, engine}), task=TASKS[task].kind, precision="fp32")
        except ConfigError as error:
            cells[engine] = {"why_not": str(error)}
    possible = [engine for engine in engines if engine not in cells]
    together = _export(folder, model, options, possible)
    if set(together) != set(possible):
        together = {}
        for engine in possible:
            together |= _export(folder, model, options, [engine])
    return cells | together


def _export(folder: Path, model: str, options: Options, engines: list[str]) -> dict[str, Cell]:
    """Return the cells of one export; of several engines, the one that is apart or fails takes the others with it."""
    if not engines:
        return {}
    names = (PORTABLE, *(one for one in engines if one != PORTABLE))
    try:
        report = export_bundle(str(folder / model), options, folder / "bundle", engines=names).report
    except ParityError as error:
        report = error.report
    except EdgefoldError as error:  # other than ConfigError: a converter or a reader refuses what should be
        kind = "why_not" if isinstance(error, ConfigError) else "failed"
        return {engines[0]: {kind: str(error)}} if len(engines) == 1 else {}
    return {name: _cell(apart) for name, apart in report.by_engine.items() if name in engines}


def _cell(apart: Apart) -> Cell:
    errors = {"loss": apart.loss, "update": apart.update, "logits": apart.logits}
    limits = {"loss": TOLERANCE.loss, "update": TOLERANCE.update, "logits": TOLERANCE.logits}
    return {**errors, "passed": all(errors[key] <= limit for key, limit in limits.items())}


def _kept(path: Path | None) -> Cells:
    if path is None or not path.exists():
        return {}
    cells: Cells = {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        cells.setdefault((one["family"], one["adapter"]), {}).update(one["cells"])
    return cells


def _keep(path: Path | None, family: str, adapter: str, cells: dict[str, Cell]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({"family": family, "adapter": adapter, "cells": cells}) + "\n")


def _text(cell: Cell) -> str:
    if "why_not" in cell:
        return f"cannot be: {cell['why_not']}"
    if "failed" in cell:
        return f"FAILED: {cell['failed']}"
    return f"loss {cell['loss']:.1e}  update {cell['update']:.1e}{'' if cell['passed'] else '  APART'}"


def _short(found: dict[str, Cell], engines: list[str]) -> str:
    """Return a cell of the table: the errors of the engines, a dash for what cannot be."""
    if all("why_not" in found[engine] for engine in engines):
        return "-"
    return " ".join(
        f"{found[engine]['update']:.0e}"
        if "update" in found[engine]
        else "-"
        if "why_not" in found[engine]
        else "failed"
        for engine in engines
    )


def _draw(figure: Any, table: list[list[str]], families: list[str], adapters: list[str]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    axes.axis("off")
    drawn = axes.table(cellText=table, rowLabels=families, colLabels=adapters, loc="center", cellLoc="center")
    drawn.auto_set_font_size(False)  # noqa: FBT003 - matplotlib's own signature
    drawn.set_fontsize(5)
    axes.set_title("|theta - PyTorch's| / |PyTorch's - start| by engine; - cannot be", fontsize=9)


if __name__ == "__main__":
    main()
