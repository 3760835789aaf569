"""Reads labelled pictures from an .npz: ``images`` uint8 [n, height, width, channel] and integer ``labels`` [n].

Laws: pictures are as large as the model wants them before they come here (a device needs no image library); they stay
bytes until they are in a batch. Memory: all pictures of the file as bytes, bounded by ``host.arrays``, and one batch of
float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from host.arrays import load_npz
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from protocol.bundle import ImageFacts

__all__ = ["ImageSet", "read_images", "read_pictures"]

_LEVELS = np.float32(255)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Pictures uint8 [n, height, width, channel] and their labels int64 [n], if they have any."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    facts: ImageFacts

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return ones, int64 [n]: all pictures are of one size."""
        return np.ones(len(self), np.int64)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.images)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> Batch:
        """Return ``rows`` as pixel_values float32 [batch, channel, height, width] and, if any, labels [batch]."""
        mean, std = (np.array(values, np.float32) for values in (self.facts.mean, self.facts.std))  # [channel]
        scaled = (self.images[np.asarray(rows)] / _LEVELS - mean) / std  # [batch, height, width, channel]
        pixels = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # [batch, channel, height, width]
        batch: Batch = {"pixel_values": pixels}
        return batch if self.labels is None else batch | {"labels": self.labels[np.asarray(rows)]}


def read_images(path: Path, facts: ImageFacts, *, n_labels: int, max_examples: int) -> ImageSet:
    """Return at most ``max_examples`` pictures of ``path``, in order.

    Raises:
        ConfigError: no such file, another format, or pictures or labels that the model cannot take.
    """
    images, labels = read_pictures(path, facts, also="labels")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise ConfigError(f"{path}: labels are {labels.dtype} {labels.shape}, expected {len(images)} integers")
    labels = labels[:max_examples].astype(np.int64)
    if not ((labels >= 0) & (labels < n_labels)).all():
        raise ConfigError(f"{path}: a label is not one of 0 to {n_labels - 1}")
    return ImageSet(images=images[:max_examples], labels=labels, facts=facts)


def read_pictures(path: Path, facts: ImageFacts, *, also: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return the pictures of an .npz, uint8 [n, height, width, channel], n above 0, and its array ``also``, unchecked.

    Raises:
        ConfigError: no such file, another format, or pictures that the model cannot take.
    """
    if path.suffix.lower() != ".npz":
        raise ConfigError(f"{path}: pictures are read from .npz, with arrays 'images' and '{also}'")
    if not path.is_file():
        raise ConfigError(f"{path}: no such data file")
    try:
        arrays = load_npz(path)
    except StorageError as error:
        raise ConfigError(str(error)) from error
    images, others = arrays.get("images"), arrays.get(also)
    if images is None or others is None:
        raise ConfigError(f"{path}: expected arrays 'images' and '{also}', found {', '.join(sorted(arrays)) or 'none'}")
    expected = (facts.height, facts.width, facts.channels)
    if images.dtype != np.uint8 or images.shape[1:] != expected or not len(images):
        wanted = ", ".join(map(str, expected))
        raise ConfigError(f"{path}: images are {images.dtype} {images.shape}, expected uint8 (n, {wanted}), n above 0")
    return images, others
