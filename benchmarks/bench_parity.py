"""Does every family train with every adapter as PyTorch does?

Each cell is an export of a tiny random model: 20 AdamW steps by PyTorch and by the trainer process, loss and parameters
compared. A cell that cannot exist says why. All cells take an hour or more on two cores;
``python -m benchmarks.bench_parity --families gpt2,vit --adapters lora`` does some.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Benchmark
from export.adapt import Options
from export.bundle import ParityError, export_bundle
from export.heavy import quiet
from export.parity import TOLERANCE
from models.tasks import NAMED_CLASSES, TASKS
from models.tiny import TINY, write_tiny
from protocol.errors import ConfigError

ADAPTERS: Final = ("lora", "head", "soft-prompt", "prefix", "bitfit", "ia3", "full")
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


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(ROWS))
    parser.add_argument("--adapters", default=",".join(ADAPTERS))
    options = parser.parse_args()
    families, adapters = options.families.split(","), options.adapters.split(",")
    quiet()
    cells: dict[str, dict[str, Cell]] = {}
    with tempfile.TemporaryDirectory(prefix="edgefold-parity-") as name:
        for family in families:
            model = family.split("/")[0]
            write_tiny(model, Path(name) / model)
            cells[family] = {}
            for adapter in adapters:
                cells[family][adapter] = cell = _cell(Path(name), family, adapter)
                print(f"{family:<29} {adapter:<12} {_text(cell)}", flush=True)
    bench = Benchmark("parity", "How far from PyTorch is each family with each adapter after 20 steps?")
    ran = [cell for row in cells.values() for cell in row.values() if "update" in cell]
    bench.summary = {
        "cells_that_ran_count": len(ran),
        "cells_that_cannot_exist_count": sum("why_not" in cell for row in cells.values() for cell in row.values()),
        "cells_apart_count": sum(not cell["passed"] for cell in ran),
        "worst_loss_error_fraction": max((cell["loss"] for cell in ran), default=0.0),
        "worst_update_error_fraction": max((cell["update"] for cell in ran), default=0.0),
    }
    bench.goals = {
        "cells_apart_count": (0, 0),
        "worst_loss_error_fraction": (0, TOLERANCE.loss),
        "worst_update_error_fraction": (0, TOLERANCE.update),
    }
    bench.details["cells"] = cells
    bench.finish(lambda figure: _draw(figure, cells))


def _cell(folder: Path, family: str, adapter: str) -> Cell:
    model, _, task = family.partition("/")
    task = task or TINY[model].task
    n_labels = N_LABELS if TASKS[task].has_labels else None
    names = LABEL_NAMES if task == NAMED_CLASSES else ()
    try:
        options = Options(
            task=task, n_labels=n_labels, label_names=names, adapter=adapter, rank=2, n_virtual=3, max_tokens=40
        )
        report = export_bundle(str(folder / model), options, folder / f"{model}-{task}-{adapter}").report
    except ConfigError as error:
        return {"why_not": str(error)}
    except ParityError as error:
        report = error.report
    return {"loss": report.max_relative_loss_error, "update": report.update_error, "passed": report.passed}


def _text(cell: Cell) -> str:
    if "why_not" in cell:
        return f"cannot be: {cell['why_not']}"
    return f"loss {cell['loss']:.1e}  update {cell['update']:.1e}{'' if cell['passed'] else '  APART'}"


def _draw(figure: Any, cells: dict[str, dict[str, Cell]]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    axes.axis("off")
    adapters = list(next(iter(cells.values())))
    text = [[f"{row[a]['update']:.0e}" if "update" in row[a] else "-" for a in adapters] for row in cells.values()]
    axes.table(cellText=text, rowLabels=list(cells), colLabels=adapters, loc="center", cellLoc="center")
    axes.set_title("|theta - PyTorch's| / |PyTorch's - start|; - cannot be", fontsize=9)


if __name__ == "__main__":
    main()
