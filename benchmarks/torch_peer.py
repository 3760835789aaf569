"""PyTorch's side of ``bench_train``: the same model, adapter, optimiser and batches, in a process of its own.

``eager`` is the model that is exported, ``sdpa`` has PyTorch's fused attention, ``compile`` is that with
``torch.compile`` (inductor, fixed shapes). Prints one JSON line: seconds in the training steps, of which the first
(where compiling happens), their number, and the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch
from torch import nn

from host.arrays import load_npz
from host.memory import peak_bytes
from models.adapters import Recipe, add_adapter, parts_of
from models.task import Task, build
from models.tasks import TASKS

MODES = ("eager", "sdpa", "compile")


class _Step(nn.Module):
    """The loss of a batch, as one module that can be compiled."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self._model, self._loss, self._n_inputs = task.wrap(model), task.loss, len(task.inputs)

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        return self._loss(self._model(*batch[: self._n_inputs]), *batch)


def main() -> None:
    """Train for some steps and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--labels", type=int)
    parser.add_argument("--batches", required=True, help="an .npz with arrays STEP/NAME")
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = TASKS[options.task]
    model, family = build(options.model, task, n_labels=options.labels, seed=0)
    if options.mode != "eager":
        with contextlib.suppress(ValueError, AttributeError):  # a model that has one attention alone
            model.set_attn_implementation("sdpa")
    parts = parts_of("lora", has_head=task.has_head)
    add_adapter(model, family, Recipe(parts=parts, targets=family.default_targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    step: nn.Module = _Step(task, model)
    if options.mode == "compile":
        step = torch.compile(step, dynamic=False)
    batches = _batches(options.batches, (*task.inputs, *task.targets))
    times = []
    for batch in batches:
        began = time.monotonic()
        optimizer.zero_grad()
        step(*batch).backward()
        optimizer.step()
        times.append(time.monotonic() - began)
    cost = {"train_s": sum(times), "first_step_s": times[0], "n_steps": len(times), "peak_memory_bytes": peak_bytes()}
    print(json.dumps(cost))


def _batches(path: str, names: tuple[str, ...]) -> list[tuple[torch.Tensor, ...]]:
    arrays = load_npz(Path(path))
    n_steps = len({name.split("/")[0] for name in arrays})
    return [tuple(torch.from_numpy(arrays[f"{step}/{name}"]) for name in names) for step in range(n_steps)]


if __name__ == "__main__":
    main()
