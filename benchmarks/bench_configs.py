"""Does any configuration of an architecture export, or is it refused with a reason that helps?

For each architecture and seed a random configuration of two layers (``models.drawn``) with a random adapter: exported
with all passes and held against PyTorch over 20 steps. What is refused says why; anything else is a fault and counts.
``--quick`` leaves out the lowering to ONNX and holds the traced step against PyTorch on every shape: wider in the same
time. ``python -m benchmarks.bench_configs --families opt --seeds 3,7 --quick`` repeats some.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.record import Benchmark
from export.adapt import Options, adapt
from export.bundle import ParityError, export_bundle
from export.cli import quiet
from export.load import load
from export.problems import SHAPES, make_problem
from export.trace import trace
from models.adapters import named_trainables
from models.drawn import DRAWN, draw
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from export.adapt import Adapted
    from export.problems import Batch
    from export.trace import Step
    from models.drawn import Drawn

N_SEEDS: Final = 6
LONGEST: Final = 24
# Of the traced step to PyTorch on one batch, both float32: of the loss, and of the largest value of the gradient.
MOST_APART: Final = 1e-4

Cell = dict[str, Any]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(DRAWN))
    parser.add_argument("--seeds", default=",".join(map(str, range(N_SEEDS))))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quiet()
    cells: dict[str, Cell] = {}
    for seed in options.seeds.split(","):
        for family in options.families.split(","):
            cells[f"{family} {seed}"] = cell = _cell(family, int(seed), is_quick=options.quick)
            print(f"{family:<11} {seed:>3}  {cell['adapter']:<12} {_text(cell)}", flush=True)
    bench = Benchmark("configs", "Does any configuration export, or is it refused with a reason?")
    states = [cell["state"] for cell in cells.values()]
    bench.summary = {
        f"{state}_count": states.count(state) for state in ("exported", "traced", "refused", "apart", "broke")
    }
    bench.goals = {"apart_count": (0, 0), "broke_count": (0, 0)}
    bench.details["cells"] = cells
    bench.finish(lambda figure: _draw(figure, cells))


def _cell(family: str, seed: int, *, is_quick: bool) -> Cell:
    drawn = draw(family, seed)
    cell: Cell = {"adapter": drawn.adapter, "config": drawn.config.to_diff_dict()}
    with tempfile.TemporaryDirectory(prefix="edgefold-configs-") as name:
        folder = Path(name) / family
        _write(drawn, folder, seed=seed)
        try:
            options = Options(
                task=drawn.task, n_labels=drawn.n_labels, adapter=drawn.adapter, rank=2, n_virtual=3, max_tokens=LONGEST
            )
            if is_quick:
                apart = _quick(folder, options)
                return cell | {"state": "traced" if apart <= MOST_APART else "apart", "apart": apart}
            report = export_bundle(str(folder), options, Path(name) / "bundle").report
            return cell | {"state": "exported", "apart": max(report.max_relative_loss_error, report.update_error)}
        except ConfigError as error:
            return cell | {"state": "refused", "why": str(error)}
        except ParityError as error:
            return cell | {"state": "apart", "apart": error.report.update_error, "why": str(error)}
        except Exception as error:  # noqa: BLE001 - what must not be, whatever it is
            return cell | {"state": "broke", "why": repr(error)[:300], "trace": traceback.format_exc()}


def _write(drawn: Drawn, folder: Path, *, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn.make().save_pretrained(folder)
    if drawn.vocabulary is not None:
        words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, drawn.vocabulary)}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - no password
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(folder / "tokenizer.json"))


def _quick(folder: Path, options: Options) -> float:
    """Return how far the traced training step is from PyTorch over all shapes of a problem."""
    adapted = adapt(load(str(folder), is_text=options.is_text), options)
    problem = make_problem(adapted.theta, adapted.layout, adapted.inputs, seed=0, n_steps=len(SHAPES))
    theta = torch.from_numpy(problem.theta)
    step, _ = trace(adapted.model, adapted.task, adapted.trainables, theta=theta, max_tokens=options.max_tokens)
    return max(_apart(adapted, step, batch, theta) for batch in problem.batches)


def _apart(adapted: Adapted, step: Step, batch: Batch, theta: torch.Tensor) -> float:
    values = [torch.from_numpy(np.asarray(batch[name])) for name in step.inputs]
    loss, gradient = step.graph(list(step.frozen.values()), theta, *values)
    wrapped, n_inputs = adapted.task.wrap(adapted.model), len(adapted.task.inputs)

    def expected(vector: torch.Tensor) -> torch.Tensor:
        own = {f"model.{name}": value for name, value in named_trainables(vector, adapted.trainables).items()}
        logits = torch.func.functional_call(wrapped, own, tuple(values[:n_inputs]))
        return adapted.task.loss(logits, *values)

    vector = theta.clone().requires_grad_()
    right = expected(vector)
    (slope,) = torch.autograd.grad(right, vector)
    of_loss = float((loss - right).abs() / right.abs())
    return max(of_loss, float((gradient - slope).abs().max() / slope.abs().max().clamp(min=1e-12)))


def _text(cell: Cell) -> str:
    if cell["state"] in {"exported", "traced"}:
        return f"{cell['state']} {cell['apart']:.1e}"
    return f"{cell['state'].upper() if cell['state'] != 'refused' else 'refused'}: {cell.get('why', cell.get('apart'))}"


def _draw(figure: Any, cells: dict[str, Cell]) -> None:  # noqa: ANN401 - matplotlib ships no types we use
    axes = figure.add_subplot()
    axes.semilogy([max(cell["apart"], 1e-9) for cell in cells.values() if "apart" in cell], ".")
    axes.set_ylabel("apart from PyTorch")
    axes.set_xlabel("configuration")


if __name__ == "__main__":
    main()
