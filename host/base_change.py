"""Makes a bundle's base weights with a version's change in them, for a runtime that takes weights from memory.

Laws: the bundle's files are only read; a change of zeros gives the bundle's own weights, bit for bit; what is not
finite is refused. Memory: the changed weights in float32, once for each orientation in which a graph reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from host.durable import open_plain, read_bytes
from protocol.bundle import WEIGHTS
from protocol.errors import BundleError, ConfigError, StorageError, UpdateError
from protocol.open_base import MAX_OPEN_BASE_BYTES, OPEN_BASE, OpenBase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from host.bundle_folder import Bundle
    from protocol.open_base import BaseWeight, GraphName, Stored

__all__ = ["ChangedBase", "Weights", "changed_base", "open_base"]

Weights: TypeAlias = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedBase:
    """What takes the place of the bundle's own weights: for each graph, initializers by name, float32."""

    train: Weights = field(default_factory=dict)
    evaluate: Weights = field(default_factory=dict)

    def of(self, graph: GraphName) -> Weights:
        """Return the initializers of ``graph``."""
        return self.train if graph == "train" else self.evaluate


def open_base(bundle: Bundle) -> OpenBase:
    """Return which weights of a checked bundle may change.

    Raises:
        ConfigError: none may (whoever chose the strategy, or exported the bundle in few bits).
        BundleError: what the bundle says of them does not fit it.
    """
    if OPEN_BASE not in bundle.manifest.files:
        raise ConfigError(f"{bundle.folder}: this bundle's base weights cannot be changed: it has no {OPEN_BASE}")
    data = read_bytes(bundle.path(OPEN_BASE), max_bytes=MAX_OPEN_BASE_BYTES, follow_links=False)
    weights = bundle.manifest.files.get(WEIGHTS)
    return OpenBase.from_bytes(data, layout=bundle.layout, weights_bytes=0 if weights is None else weights.bytes)


def changed_base(bundle: Bundle, change: NDArray[np.float32]) -> ChangedBase:
    """Return the weights of ``bundle`` with ``change`` added, float32 [n_dense_values] as ``protocol.lora_pairs`` says.

    Raises:
        ConfigError, BundleError: as ``open_base``.
        UpdateError: the change has another length, or makes a weight infinite (whoever made the change).
    """
    opened, changed, offset = open_base(bundle), ChangedBase(), 0
    n_expected = sum(weight.n_values for weight in opened.weights)
    if change.shape != (n_expected,):
        raise UpdateError(f"a base change of {change.size} values, expected {n_expected}", reason="wrong-shape")
    try:
        with open_plain(bundle.path(WEIGHTS), follow_links=False) as file:
            for weight in opened.weights:
                part = change[offset : offset + weight.n_values].reshape(weight.n_out, weight.n_in)
                for stored, values in _changed(file, weight, part):
                    changed.of(stored.graph)[stored.name] = values
                offset += weight.n_values
    except (FileNotFoundError, StorageError) as error:
        raise BundleError(f"{bundle.folder}: {WEIGHTS} cannot be read: {error}") from error
    return changed


def _changed(
    file: FileIO, weight: BaseWeight, change: NDArray[np.float32]
) -> Iterator[tuple[Stored, NDArray[np.float32]]]:
    """Yield each initializer of one weight with what it becomes; one array for those that lie the same way."""
    ways: dict[bool, NDArray[np.float32]] = {}
    for stored in weight.stored:
        if stored.is_transposed not in ways:
            rows, columns = (weight.n_in, weight.n_out) if stored.is_transposed else (weight.n_out, weight.n_in)
            own = _read(file, stored.offset, weight.n_values).reshape(rows, columns)
            with np.errstate(over="ignore"):  # looked at below
                values = np.ascontiguousarray(own + (change.T if stored.is_transposed else change), np.float32)
            if not np.isfinite(values).all():
                raise UpdateError(f"a base change makes {weight.pair} infinite", reason="not-finite")
            ways[stored.is_transposed] = values
        yield stored, ways[stored.is_transposed]


def _read(file: FileIO, offset: int, n_values: int) -> NDArray[np.float32]:
    file.seek(offset)
    values = np.fromfile(file, "<f4", count=n_values)
    if values.size != n_values:
        raise StorageError(f"{file.name}: ends before {n_values} values at {offset}")
    return values
