"""Tells in what two bundles differ: facts of the manifest, operators of the graphs, files.

Laws: both bundles are checked before anything of them is believed; nothing is run; equal bundles give nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from export.inspect import Inspected, inspect
from protocol.fields import plain

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One fact that is not the same; None: it is not there."""

    where: str  # such as ``manifest.adapter.rank`` or ``portable/train.onnx Gemm``
    left: object
    right: object


def differences(left: Path, right: Path) -> tuple[Difference, ...]:
    """Return what differs between two bundles, in a fixed order.

    Raises:
        BundleError: one of them is no bundle, or a file is not what its manifest says.
    """
    one, other = inspect(left), inspect(right)
    found = list(_compare("manifest", plain(one.manifest), plain(other.manifest)))
    found += _compare("operators", _operators(one), _operators(other))
    return tuple(found)


def _operators(bundle: Inspected) -> dict[str, dict[str, int]]:
    return {f"{graph.engine}/{graph.file}": graph.operators for graph in bundle.graphs}


def _compare(where: str, left: object, right: object) -> Iterator[Difference]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from _compare(f"{where}.{key}", left.get(key), right.get(key))
    elif left != right:
        yield Difference(where=where, left=left, right=right)
