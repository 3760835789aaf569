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
    table: dict[Any, Callable[..., Any]] = {
        aten.index.Tensor: _index,
        aten.scatter.value: _scatter,
        aten.scatter_add.default: _scatter_add,
    }
    rewritten: ExportedProgram = program.run_decompositions(table)
    return rewritten


def _index(source: Tensor, indices: Sequence[Tensor | None]) -> Any:  # noqa: ANN401 - NotImplemented: leave it
    """Look booleans up as floats: GATHER_ND of booleans is newer."""
    if source.dtype is not torch.bool:
        return NotImplemented
    return aten.index.Tensor(source.to(torch.float32), indices) != 0


def _scatter(source: Tensor, dim: int, index: Tensor, value: float) -> Any:  # noqa: ANN401 - as above
    """Compare a row's one index with every position: STABLEHLO_SCATTER is newer."""
    if not _is_one_a_row(source, dim, index):
        return NotImplemented
    return torch.where(index == _positions(source, dim), torch.full((), value, dtype=source.dtype), source)


def _scatter_add(source: Tensor, dim: int, index: Tensor, values: Tensor) -> Any:  # noqa: ANN401 - as above
    """Add a row's one value where its index is, and nothing elsewhere: no runtime has a scatter that adds."""
    if not _is_one_a_row(source, dim, index):
        return NotImplemented
    return source + torch.where(index == _positions(source, dim), values, torch.zeros((), dtype=source.dtype))


def _is_one_a_row(source: Tensor, dim: int, index: Tensor) -> bool:
    return index.dim() == source.dim() and index.shape[dim] == 1


def _positions(source: Tensor, dim: int) -> Tensor:
    """Return 0, 1, 2, ... along ``dim``, of length 1 along every other axis."""
    shape = [1] * source.dim()
    shape[dim] = source.shape[dim]
    return torch.arange(source.shape[dim], device=source.device).reshape(shape)
