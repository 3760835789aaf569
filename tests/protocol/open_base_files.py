"""The two files that open a bundle's base weights, for bundles whose graphs compute nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.bundle import WEIGHTS
from protocol.lora_pairs import lora_pairs
from protocol.open_base import OPEN_BASE, BaseWeight, GraphName, OpenBase, Stored

if TYPE_CHECKING:
    from protocol.layout import Layout

GRAPHS: tuple[GraphName, ...] = ("train", "evaluate")


def open_base_of(layout: Layout) -> OpenBase:
    """Return where the weights lie: one after the other, every second one transposed."""
    weights, offset = [], 0
    for number, pair in enumerate(lora_pairs(layout)):
        stored = tuple(
            Stored(graph=graph, name=f"w{number}", offset=offset, is_transposed=number % 2 == 1) for graph in GRAPHS
        )
        n_out, n_in = pair.dense_shape
        weights.append(BaseWeight(pair=pair.name, n_out=n_out, n_in=n_in, stored=stored))
        offset += 4 * pair.n_dense
    return OpenBase(weights=tuple(weights))


def open_base_files(layout: Layout, *, seed: int = 0) -> dict[str, bytes]:
    """Return ``base.json`` and the weights file, with random weights."""
    n_dense = sum(pair.n_dense for pair in lora_pairs(layout))
    weights = np.random.default_rng(seed).normal(0, 1, n_dense).astype("<f4")
    return {OPEN_BASE: open_base_of(layout).to_bytes(), WEIGHTS: weights.tobytes()}
