"""Pass: operations that tflite-runtime 2.14 does not know, said with older ones.

2.14 is the last runtime for arm64 that has no known trouble; litert-torch writes for the newest.

Laws: exact; what is not one of the cases below stays as it is, and the runtime then refuses the file by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

__all__ = ["say_with_older_operations"]

aten = torch.ops.aten


def say_with_older_operations(program: ExportedProgram) -> ExportedProgram:
    """Return the program without boolean look-ups and without scatters of one value a row."""
    table: dict[Any, Callable[..., Any]] = {aten.index.Tensor: _index, aten.scatter.value: _scatter}
    rewritten: ExportedProgram = program.run_decompositions(table)
    return rewritten


def _index(source: Tensor, indices: Sequence[Tensor | None]) -> Any:  # noqa: ANN401 - NotImplemented: leave it
    """Look booleans up as floats: GATHER_ND of booleans is newer."""
    if source.dtype is not torch.bool:
        return NotImplemented
    return aten.index.Tensor(source.to(torch.float32), indices) != 0


def _scatter(source: Tensor, dim: int, index: Tensor, value: float) -> Any:  # noqa: ANN401 - as above
    """Compare a row's one index with every position: STABLEHLO_SCATTER is newer."""
    if index.shape[dim] != 1 or index.dim() != source.dim():
        return NotImplemented
    shape = [1] * source.dim()
    shape[dim] = source.shape[dim]
    positions = torch.arange(source.shape[dim], device=source.device).reshape(shape)
    return torch.where(index == positions, torch.full((), value, dtype=source.dtype), source)
