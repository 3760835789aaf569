"""A trained adapter and its base become one model that gives the same logits, or nothing is written."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.adapt import Options
from export.bundle import Exported, export_bundle
from export.merge import TOLERANCE, Merged, merge
from host.arrays import save_vector
from models.tiny import write_tiny
from protocol.errors import BundleError, ConfigError
from tests.export.test_cli import edgefold

NOISE = 0.1


def trained(exported: Exported, path: Path) -> Path:
    """Write an adapter whose every value has moved, LoRA's B among them."""
    start = np.frombuffer((exported.folder / "adapter.f32").read_bytes(), "<f4")
    noise = np.random.default_rng(0).normal(0, NOISE, start.size)
    save_vector(path, (start + noise).astype(np.float32))
    return path


def quietly(exported: Exported, out: Path, model: Path) -> Merged:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return merge(exported.folder, trained(exported, out.parent / "adapter.f32"), out, model=str(model))


def test_the_folder_and_the_graph_give_the_adapters_logits(
    exported: Exported, tiny_folder: Path, tmp_path: Path
) -> None:
    done = quietly(exported, tmp_path / "merged", tiny_folder)
    assert done.folder_error is not None
    assert done.merged_error is not None
    assert max(done.base_error, done.onnx_error, done.merged_error, done.folder_error) <= TOLERANCE
    names = {path.name for path in (tmp_path / "merged" / "huggingface").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any("lora" in path.name for path in (tmp_path / "merged").rglob("*"))
    assert json.loads((tmp_path / "merged" / "merged.json").read_text())["bundle_id"] == exported.id


def test_an_ordinary_program_uses_the_merged_folder(exported: Exported, tiny_folder: Path, tmp_path: Path) -> None:
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification

    quietly(exported, tmp_path / "merged", tiny_folder)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged" / "huggingface").eval()
    base = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3).eval()
    ids = np.arange(2, 14).reshape(2, 6)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    session = onnxruntime.InferenceSession(tmp_path / "merged" / "model.onnx")
    (logits,) = session.run(["logits"], inputs)
    with torch.no_grad():
        expected, untrained = (
            one(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits for one in (model, base)
        )
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    assert float((expected - untrained).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("family", "adapter", "task", "labels"),
    [
        ("bert", "lora+ia3+bitfit", "text-classification", 3),
        ("bert", "soft-prompt", "text-classification", 3),
        ("bert", "prefix+head", "text-classification", 3),
        ("gpt2", "lora+ia3", "causal-lm", None),
        ("llama", "full", "causal-lm", None),
        ("vit", "lora", "image-classification", 3),
    ],
)
def test_every_kind_of_adapter_is_merged_or_says_why_not(
    family: str, adapter: str, task: str, labels: int | None, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tmp_path / family
        write_tiny(family, model)
        options = Options(task=task, n_labels=labels, adapter=adapter, rank=2, rslora="lora" in adapter, max_tokens=20)
        exported = export_bundle(str(model), options, tmp_path / "bundle")
    done = quietly(exported, tmp_path / "merged", model)
    assert done.onnx_error <= TOLERANCE
    has_prompt = "prompt" in adapter or "prefix" in adapter
    assert (done.folder_error is None) is has_prompt
    assert (done.no_folder_why is not None) is has_prompt
    assert (tmp_path / "merged" / "huggingface").exists() is not has_prompt


def test_a_bundle_in_few_bits_is_merged_into_the_weights_that_it_has(
    options: Options, tiny_folder: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export_bundle(str(tiny_folder), replace(options, precision="nb4"), tmp_path / "bundle")
    done = quietly(exported, tmp_path / "merged", tiny_folder)
    assert max(done.base_error, done.onnx_error) <= TOLERANCE


def test_a_base_of_other_weights_is_refused(exported: Exported, tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = load_file(other / "model.safetensors")
    name = next(one for one in weights if one.endswith("output.dense.weight"))
    weights[name] = weights[name] * 1.1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match="not the bundle's base"):
        quietly(exported, tmp_path / "merged", other)
    assert not (tmp_path / "merged").exists()


def test_a_base_that_is_not_here_is_asked_for(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the model's folder with --model"):
        merge(exported.folder, trained(exported, tmp_path / "a.f32"), tmp_path / "merged")


def test_mistakes_at_the_command_line_are_one_line(exported: Exported, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = trained(exported, tmp_path / "a.f32")
    (tmp_path / "short.f32").write_bytes(bytes(8))
    cases = [
        ([str(tmp_path / "none"), "--adapter", str(adapter)], 3, "no bundle here"),
        ([str(exported.folder), "--adapter", str(tmp_path / "short.f32")], None, "short.f32"),
        ([str(exported.folder), "--adapter", str(adapter), "--out", str(tmp_path)], 2, "it is there already"),
    ]
    for arguments, code, line in cases:
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "merged")]
        done = edgefold("export", "merge", *arguments, *out, "--model", str(tiny_folder))
        assert code is None or done.returncode == code
        assert done.returncode in {2, 3, 4}
        assert len(done.stderr.strip().splitlines()) == 1
        assert line in done.stderr
