"""Streams of examples that change: four kinds of text one after another, and ten classes that come two by two.

Laws: a stage's training examples are cut among the devices without overlap; its exam is never trained on; the order is
the seed's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.fashion import read_fashion, write_base
from deploy.demo import DOMAINS, export_bundle, prepare_data
from host.bundle_folder import Bundle, open_bundle
from host.durable import make_folder, write_bytes
from protocol.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SCENARIOS", "Scale", "Scenario", "Stage"]

OUT: Final = Path("out/bench/continual")
N_CLASSES_A_STAGE: Final = 2
_N_BASE: Final = 10_000  # pictures for the base, from the end of the training file: no device has them
Row = Any  # a line of JSON, or a picture with its label


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much there is of each stage."""

    n_train: int
    n_test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What comes in one stretch of time."""

    name: str
    rows: list[Row]
    exam: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A bundle and its stages."""

    bundle: Bundle
    stages: list[Stage]
    write: Callable[[Path, Sequence[Row]], Path]  # to a file of this name, with the format's suffix


def _sentiment(seed: int, scale: Scale) -> Scenario:
    splits = prepare_data(scale.n_train, scale.n_test)
    order = np.random.default_rng(seed).permutation(len(DOMAINS))
    stages = [
        Stage(name=name, rows=_shuffled(splits.train[name].read_bytes().splitlines(), seed), exam=splits.test[name])
        for name in (DOMAINS[i] for i in order)
    ]
    return Scenario(bundle=export_bundle(Path("out/bench/bundle")), stages=stages, write=_write_lines)


def _fashion(seed: int, scale: Scale) -> Scenario:
    images, labels = read_fashion("train")
    test_images, test_labels = read_fashion("t10k")
    folder = make_folder(OUT / "fashion")
    order = np.random.default_rng(seed).permutation(10)
    stages = []
    for start in range(0, 10, N_CLASSES_A_STAGE):
        classes = order[start : start + N_CLASSES_A_STAGE]
        rows = [row for row in range(len(images) - _N_BASE) if labels[row] in classes]
        rows = [int(row) for row in np.random.default_rng([seed, start]).permutation(rows)[: scale.n_train]]
        tests = np.flatnonzero(np.isin(test_labels, classes))[: scale.n_test]
        name = "+".join(str(one) for one in sorted(classes.tolist()))
        exam = _write_pictures(folder / f"exam-{name}", [(test_images[i], test_labels[i]) for i in tests])
        stages.append(Stage(name=name, rows=[(images[i], labels[i]) for i in rows], exam=exam))
    return Scenario(bundle=_vision_bundle(images), stages=stages, write=_write_pictures)


def _vision_bundle(images: np.ndarray[Any, Any]) -> Bundle:
    folder = OUT / "vit-bundle"
    try:
        return open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
    base = OUT / "vit"
    write_base(base, images[-_N_BASE:], epochs=4)
    what = ["--task", "image-classification", "--labels", "10", "--adapter", "lora", "--rank", "8"]
    command = [sys.executable, "-m", "edgefold", "export", str(base), *what, "--out", str(folder)]
    if (done := subprocess.run(command, check=False)).returncode != 0:
        message = f"the export failed with exit code {done.returncode}"
        raise ConfigError(message)
    return open_bundle(folder)


def _shuffled(rows: list[bytes], seed: int) -> list[bytes]:
    return [rows[i] for i in np.random.default_rng([seed, 1]).permutation(len(rows))]


def _write_lines(path: Path, rows: Sequence[bytes]) -> Path:
    whole = path.with_name(path.name + ".jsonl")
    write_bytes(whole, b"\n".join(rows) + b"\n")
    return whole


def _write_pictures(path: Path, rows: Sequence[tuple[Any, Any]]) -> Path:
    whole = path.with_name(path.name + ".npz")
    np.savez(whole, images=np.stack([image for image, _ in rows]), labels=np.array([label for _, label in rows]))
    return whole


SCENARIOS: Final[dict[str, Callable[[int, Scale], Scenario]]] = {"sentiment": _sentiment, "fashion": _fashion}
