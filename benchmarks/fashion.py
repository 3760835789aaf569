"""Fashion-MNIST from Debian's package, and a small vision transformer that learnt from its pictures without labels.

The base learns by telling by how much a picture was turned (Gidaris et al. 2018, "Unsupervised Representation Learning
by Predicting Image Rotations", arXiv:1803.07728), on pictures that no device gets: there is no pretrained vision model
in a Python package, and a random one would leave nothing to forget.

Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747. Settings: EDGEFOLD_FASHION (a folder with the four .gz files;
the package's own if absent).
"""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from host.durable import make_folder, read_bytes
from protocol.errors import ConfigError

__all__ = ["read_fashion", "write_base"]

PACKAGE_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
SIDE: Final = 28
MEAN, STD = 0.286, 0.353  # of the training pictures
_MAX_FILE_BYTES: Final = 64 * 2**20
_MAX_BYTES: Final = 60_000 * SIDE * SIDE + 16
_HEADS: Final = {"images": 16, "labels": 8}  # bytes before the values, of the IDX format
TURNS: Final = 4
_CONFIG: Final[dict[str, Any]] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": SIDE,
    "patch_size": 7,
    "num_channels": 1,
}


def read_fashion(part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return pictures uint8 [n, 28, 28, 1] and labels int64 [n] of ``train`` or ``t10k``.

    Raises:
        ConfigError: the files are not there.
    """
    folder = Path(os.environ.get("EDGEFOLD_FASHION", PACKAGE_FOLDER))
    images = _values(folder / f"{part}-images-idx3-ubyte.gz", "images").reshape(-1, SIDE, SIDE, 1)
    return images, _values(folder / f"{part}-labels-idx1-ubyte.gz", "labels").astype(np.int64)


def _values(path: Path, kind: str) -> np.ndarray[Any, Any]:
    try:
        data = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        message = f"{path}: missing; install dataset-fashion-mnist, or unpack it and set EDGEFOLD_FASHION"
        raise ConfigError(message) from error
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return np.frombuffer(file.read(_MAX_BYTES), np.uint8)[_HEADS[kind] :].copy()


def write_base(folder: Path, images: np.ndarray[Any, Any], *, epochs: int, seed: int = 0) -> None:
    """Write a Hugging Face folder of a transformer that learnt the turns of ``images``, uint8 [n, 28, 28, 1]."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = ViTForImageClassification(ViTConfig(**_CONFIG, num_labels=TURNS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        n_right = 0
        for rows in np.array_split(rng.permutation(len(images)), max(1, len(images) // 128)):
            turns = rng.integers(TURNS, size=len(rows))
            turned = np.stack([np.rot90(images[row], turn) for row, turn in zip(rows, turns, strict=True)])
            pixels = torch.from_numpy(((turned / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32))
            logits = model(pixel_values=pixels).logits
            wanted = torch.from_numpy(turns)
            functional.cross_entropy(logits, wanted).backward()
            optimizer.step()
            optimizer.zero_grad()
            n_right += int((logits.argmax(1) == wanted).sum())
        print(f"  base: tells {n_right / len(images):.3f} of the turns", flush=True)
    make_folder(folder)
    model.vit.save_pretrained(folder)
    facts = {"image_mean": [MEAN], "image_std": [STD], "size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts), "utf-8")
