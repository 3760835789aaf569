from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.trainer.batches import shuffled_batches
from edge_agent.trainer.images import read_images
from protocol.bundle import ImageFacts
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FACTS = ImageFacts(height=2, width=3, channels=1, mean=(0.5,), std=(0.25,))


def write(path: Path, **changes: Any) -> Path:
    arrays = {
        "images": np.arange(30, dtype=np.uint8).reshape(5, 2, 3, 1),
        "labels": np.array([0, 1, 0, 1, 1], np.uint8),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_picture_becomes_normalised_channels_first(tmp_path: Path) -> None:
    data = read_images(write(tmp_path / "d.npz"), FACTS, n_labels=2, max_examples=9)
    batch = data.batch([3, 1])
    assert batch["labels"].tolist() == [1, 1]
    assert batch["pixel_values"].dtype == np.float32
    expected = (np.arange(18, 24).reshape(1, 2, 3) / 255 - 0.5) / 0.25
    assert batch["pixel_values"][0] == pytest.approx(expected, abs=1e-6)


def test_every_picture_is_in_exactly_one_batch_of_an_epoch(tmp_path: Path) -> None:
    data = read_images(write(tmp_path / "d.npz"), FACTS, n_labels=2, max_examples=9)
    batches = list(shuffled_batches(data, batch_size=2, rng=np.random.default_rng(0)))
    assert sorted(len(batch["labels"]) for batch in batches) == [1, 2, 2]
    first = sorted(float(pixels.min()) for batch in batches for pixels in batch["pixel_values"])
    assert len(set(first)) == 5


def test_no_more_are_taken_than_asked_for(tmp_path: Path) -> None:
    assert len(read_images(write(tmp_path / "d.npz"), FACTS, n_labels=2, max_examples=3)) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": np.zeros((5, 3, 2, 1), np.uint8)}, r"expected uint8 \(n, 2, 3, 1\)"),
        ({"images": np.zeros((5, 2, 3, 1), np.float32)}, "images are float32"),
        ({"images": np.zeros((0, 2, 3, 1), np.uint8)}, "n above 0"),
        ({"labels": np.zeros(4, np.int64)}, "expected 5 integers"),
        ({"labels": np.zeros(5)}, "labels are float64"),
        ({"labels": np.array([0, 1, 2, 0, 0])}, "not one of 0 to 1"),
        ({"labels": np.array([0, -1, 0, 0, 0])}, "not one of 0 to 1"),
        ({"labels": None}, "found images"),
        ({"images": np.array([object()])}, "not a file of arrays"),
    ],
    ids=range(9),
)
def test_what_the_model_cannot_take_is_the_owners_fault(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        read_images(write(tmp_path / "d.npz", **changes), FACTS, n_labels=2, max_examples=9)


@pytest.mark.parametrize(("name", "says"), [("none.npz", "no such data file"), ("d.jsonl", "read from .npz")])
def test_another_file_is_refused_by_its_name(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        read_images(tmp_path / name, FACTS, n_labels=2, max_examples=9)
