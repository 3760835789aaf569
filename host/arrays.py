"""Raw float32 vectors and .npz files on disk, read with bounds and without pickles."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from host.durable import read_bytes, write_bytes
from protocol.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MAX_NPZ_BYTES", "load_npz", "load_vector", "save_vector"]

# What the zip and numpy readers raise for files that are none: encrypted or strangely packed ones are RuntimeErrors.
_NOT_NPZ: Final = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    KeyError,
    struct.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)
MAX_NPZ_BYTES: Final = 2 * 2**30  # twenty batches or their logits take less than 100 MB


def load_vector(path: Path, *, n_values: int) -> NDArray[np.float32]:
    """Return the vector in ``path``, float32 [n_values].

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: another length, or not finite.
    """
    data = read_bytes(path, max_bytes=4 * n_values)
    if len(data) != 4 * n_values:
        raise StorageError(f"{path}: expected {4 * n_values} bytes, got {len(data)}")
    vector = np.frombuffer(data, "<f4").astype(np.float32)  # [n_values]
    if not np.isfinite(vector).all():
        raise StorageError(f"{path}: a value is NaN or infinite")
    return vector


def save_vector(path: Path, vector: NDArray[np.float32]) -> None:
    """Write ``vector`` durably as raw little-endian float32."""
    write_bytes(path, vector.astype("<f4").tobytes())


def load_npz(path: Path, *, max_bytes: int = MAX_NPZ_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays in an .npz that a process of ours wrote, of at most ``max_bytes``; never unpickles.

    Raises:
        StorageError: not an .npz, too large once unpacked, or it holds objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
        if n_bytes > max_bytes:
            raise StorageError(f"{path}: {n_bytes} bytes of arrays, at most {max_bytes} are taken")
        with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 - the one place, with pickles refused
            found = {name: arrays[name] for name in arrays.files}
    except _NOT_NPZ as error:
        raise StorageError(f"{path}: not a file of arrays: {error}") from error
    for name, value in found.items():
        if not isinstance(value, np.ndarray):  # numpy hands out the bytes of a member that is no .npy
            raise StorageError(f"{path}: {name[:80]!r} is no array")
    return found
