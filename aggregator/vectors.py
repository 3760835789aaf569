"""A strategy's state between memory and blobs: raw little-endian float32, one blob a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from protocol import codec
from protocol.layout import MAX_PARAMS
from protocol.plan import Codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from aggregator.core.folding import State
    from aggregator.ports import BlobStore

# Ours, and checked by their digests: a bound against a file of another's in their place.
_MAX_VECTOR_BYTES: Final = 4 * MAX_PARAMS

__all__ = ["broadcast_payload", "load_state", "save_state", "to_bytes"]


def to_bytes(vector: NDArray[np.float32]) -> bytes:
    """Return the bytes of ``vector``; equal vectors are equal bytes on every machine."""
    return vector.astype("<f4").tobytes()


def save_state(state: State, blobs: BlobStore) -> Mapping[str, str]:
    """Keep each vector durably and return its blob's name.

    Raises:
        StorageError: one could not be kept.
    """
    return {name: blobs.put(to_bytes(vector)) for name, vector in state.items()}


def load_state(names: Mapping[str, str], blobs: BlobStore) -> State:
    """Return the vectors behind ``names``; their sizes are the strategy's own.

    Raises:
        StorageError: one is missing or has changed.
    """
    state = {}
    for name, blob in names.items():
        data = blobs.get(blob, max_bytes=_MAX_VECTOR_BYTES)
        state[name] = np.frombuffer(data, "<f4").astype(np.float32)  # [n_values]
    return state


def broadcast_payload(adapter: NDArray[np.float32], encoding: str) -> bytes:
    """Return the encoded adapter for a work message; float32 where a value is beyond float16."""
    fits = float(np.abs(adapter).max()) <= float(np.finfo(np.float16).max)
    return codec.encode(adapter, Codec(name="float16" if encoding == "float16" and fits else "float32"))
