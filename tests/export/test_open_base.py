"""A bundle says where the weights beside its LoRA pairs lie; an engine with changed ones is PyTorch's changed model."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_agent.trainer.engines import open_engine
from export.adapt import Adapted, Options, adapt
from export.bundle import Exported, export_bundle
from export.load import Source
from export.open_base import add_change, base_tensors, holds
from host.base_change import changed_base
from host.bundle_folder import open_bundle
from host.trainer_process import run_job
from protocol import codec
from protocol.bundle import MANIFEST, FileFacts, Manifest
from protocol.errors import BundleError, ConfigError, UpdateError
from protocol.jobs import EvaluateJob
from protocol.lora_pairs import n_dense_values
from protocol.open_base import OPEN_BASE
from protocol.plan import Codec


def resign(folder: Path) -> None:
    """Let the manifest vouch for what lies in ``folder`` now, as the bundle's own maker could."""
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    files = {
        name: FileFacts(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in contents.items()
    }
    (folder / MANIFEST).write_bytes(replace(manifest, files=files).to_bytes())


def change_for(exported: Exported) -> np.ndarray:
    n_dense = n_dense_values(open_bundle(exported.folder).layout)
    return np.random.default_rng(7).normal(0, 0.1, n_dense).astype(np.float32)


def test_an_engine_with_a_changed_base_is_pytorchs_model_with_it(
    exported: Exported, source: Source, options: Options, make_batch: Callable[..., dict[str, np.ndarray]]
) -> None:
    bundle, change = open_bundle(exported.folder), change_for(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = adapt(source, options)
    add_change(base_tensors(adapted), change)
    batch = make_batch(3, 7)
    with torch.no_grad():
        inputs = [torch.from_numpy(batch[name]) for name in adapted.task.inputs]
        expected = adapted.task.wrap(adapted.model)(*inputs).numpy()
    engine = open_engine("portable", bundle.folder, bundle.manifest, threads=1, base=changed_base(bundle, change))
    own = open_engine("portable", bundle.folder, bundle.manifest, threads=1)
    scores, before = (one.scores(adapted.theta, batch)["logits"] for one in (engine, own))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert float(np.abs(scores - before).max()) > 0.01
    slopes, others = (one.loss_and_gradient(adapted.theta, batch)[1] for one in (engine, own))
    assert not np.allclose(slopes, others, atol=1e-4)


def test_what_a_graph_reads_elsewhere_is_noticed(exported: Exported, adapted: Adapted, copied: Path) -> None:
    tensors = base_tensors(adapted)
    assert holds(open_bundle(exported.folder), adapted, tensors, seed=5)
    text = (copied / OPEN_BASE).read_text()
    (copied / OPEN_BASE).write_text(text.replace('"is_transposed": true', '"is_transposed": false'))
    resign(copied)
    assert not holds(open_bundle(copied), adapted, tensors, seed=5)


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"adapter": "lora+ia3"}])
def test_weights_in_fewer_bits_or_behind_ia3_stay_as_they_are(
    source: Source, options: Options, changes: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = adapt(source, replace(options, **changes))
    assert base_tensors(adapted) == ()


def test_a_bundle_whose_changed_graphs_do_something_else_is_written_closed(
    tiny_folder: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.bundle.holds", lambda *_, **__: False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        closed = export_bundle(str(tiny_folder), options, tmp_path / "bundle")
    assert closed.report.passed
    assert OPEN_BASE not in open_bundle(closed.folder).manifest.files


def test_two_weights_of_one_content_cannot_be_told_apart(source: Source, options: Options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = adapt(source, options)
    first, second, *_ = base_tensors(adapted)
    with torch.no_grad():
        second.parameter.copy_(first.parameter)
    assert base_tensors(adapted) == ()


def evaluate(bundle: Path, folder: Path, values: np.ndarray) -> float:
    """Measure a vector with a base change behind it in a real trainer process."""
    (folder / "adapter").write_bytes(codec.encode(values, Codec(name="float32")))
    (folder / "data.jsonl").write_text('{"text": "w3 w4 w5", "label": 1}\n', "utf-8")
    job = EvaluateJob(
        bundle=str(bundle),
        sets={"all": str(folder / "data.jsonl")},
        adapter=str(folder / "adapter"),
        has_base_change=True,
    )
    result = run_job(job, deadline_s=120)
    return result.sets["all"].loss


def test_a_trainer_takes_what_fits_and_refuses_the_rest_by_name(
    exported: Exported, copied: Path, tmp_path: Path
) -> None:
    theta = np.fromfile(exported.folder / "adapter.f32", "<f4")
    good = np.concatenate([theta, change_for(exported)])
    zeros = np.concatenate([theta, np.zeros_like(change_for(exported))])
    assert evaluate(copied, tmp_path, good) != evaluate(copied, tmp_path, zeros)
    for bad in (theta, good[:-1], np.append(good, np.float32(0))):
        with pytest.raises(UpdateError, match="values"):
            evaluate(copied, tmp_path, bad)
    text = (copied / OPEN_BASE).read_text()
    for old, new in (('"name": "', '"name": "no-'), ('"n_in": 24', '"n_in": 12')):
        (copied / OPEN_BASE).write_text(text.replace(old, new))
        resign(copied)
        with pytest.raises(BundleError):
            evaluate(copied, tmp_path, good)
    (copied / OPEN_BASE).unlink()
    resign(copied)
    with pytest.raises(ConfigError, match="cannot be changed"):
        evaluate(copied, tmp_path, good)
