"""Learned prompts over class names on a tiny CLIP: what they compute, how they are exported, trained and merged."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from export.adapt import Options, adapt, task_model
from export.bundle import export_bundle
from export.load import load
from export.merge import merge
from models.image_text import Towers
from models.tasks import NAMED_CLASSES
from models.tiny import write_tiny
from protocol.errors import ConfigError
from tests.export.test_families import close, trained

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("w3 w4", "w5", "w6 w7 w8")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named") / "clip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_tiny("clip", folder)
    return folder


def options(**changed: object) -> Options:
    values = {"task": NAMED_CLASSES, "label_names": NAMES, "n_labels": len(NAMES), "adapter": "soft-prompt"}
    return Options(**{**values, "n_virtual": 3, "max_tokens": 40, **changed})  # type: ignore[arg-type]


def test_names_without_a_prompt_are_the_captions_of_the_image_text_task(clip: Path) -> None:
    model, _ = task_model(clip, options(adapter="lora"), seed=0)
    ids = torch.tensor([[3, 4, 0], [5, 0, 0], [6, 7, 8]])
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32))
    named = options().task
    assert named == NAMED_CLASSES
    with torch.no_grad():
        by_captions = Towers(model)(pixels, ids, (ids > 0).long())  # [picture, caption]
        from models.class_names import NamedClasses

        by_names = NamedClasses(model)(pixels)  # [picture, class]
    assert torch.allclose(by_names, by_captions, atol=1e-6)
    assert by_names.std() > 1e-3  # the towers tell these apart at all


def test_a_prompt_stands_behind_the_first_token_of_every_name(clip: Path) -> None:
    adapted = adapt(load(str(clip), is_text=False), options())
    assert [(one.role, one.shape) for one in adapted.trainables] == [("prompt", (3, 32))]
    assert adapted.task.kind == "image-classification"
    with torch.no_grad():
        wrapped = adapted.task.wrap(adapted.model)
        pixels = torch.ones(1, 3, 8, 8)
        before = wrapped(pixels)
        words = adapted.model.text_model.embeddings.token_embedding
        adapted.model.prompt.embeddings.copy_(words(torch.tensor([9, 10, 11])))  # type: ignore[union-attr,operator]
        ids = torch.tensor([[3, 9, 10, 11, 4], [5, 9, 10, 11, 0], [6, 9, 10, 11, 7]])
        after = wrapped(pixels)
        captions = Towers(adapted.model)(pixels.expand(3, -1, -1, -1), ids, (ids > 0).long())[0]
    assert not torch.allclose(before, after)
    assert torch.allclose(after[0, :2], captions[:2], atol=1e-6)  # the third name has one token more


@pytest.mark.slow
def test_a_prompt_is_exported_trained_on_pictures_and_merged(clip: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = export_bundle(str(clip), options(), tmp_path / "bundle")
        assert close(one)
        assert one.manifest.task.label_names == NAMES
        assert (one.manifest.task.kind, one.manifest.task.n_labels) == ("image-classification", 3)
        labels = np.arange(24) % 3
        images = np.zeros((24, 8, 8, 3), np.uint8)
        for i, label in enumerate(labels):
            images[i, :, :, label] = 200 + i
        np.savez(tmp_path / "data.npz", images=images, labels=labels)
        before, after = trained(tmp_path / "bundle", tmp_path / "data.npz", epochs=20)
        assert after < before
        done = merge(tmp_path / "bundle", tmp_path / "bundle" / "adapter.f32", tmp_path / "merged", model=str(clip))
    assert done.onnx_error < 1e-5
    assert done.no_folder_why


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"label_names": ()}, "--label-names is missing"),
        ({"label_names": ("w3", "w4")}, "2 names for 3 labels"),
        ({"label_names": ("w3", "w4", "w3")}, "occurs twice"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_loaded(changed: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        options(**changed)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("w3", "w4", " ".join(["w5"] * 46)), "has 46 tokens, the model reads 1 to 45"),
        (("w3", "w4", " "), "has 0 tokens"),
        (("w3", "w4", "w3 "), "the same to the model"),
    ],
)
def test_names_that_the_model_cannot_read_are_refused(clip: Path, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task_model(clip, options(label_names=names), seed=0)


def test_a_model_without_a_text_tower_and_one_without_a_tokenizer_are_refused(clip: Path, tmp_path: Path) -> None:
    write_tiny("vit", tmp_path / "vit")
    with pytest.raises(ConfigError, match="not supported for image-classification"):
        task_model(tmp_path / "vit", options(), seed=0)
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in clip.iterdir():
        if path.name != "tokenizer.json":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="names of classes are words"):
        task_model(bare, options(), seed=0)
