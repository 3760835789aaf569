from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from protocol.bundle import MAX_MANIFEST_BYTES, FileFacts, ImageFacts, Manifest, SeriesFacts, TaskFacts, bundle_id
from protocol.errors import BundleError
from protocol.fields import FieldError, plain
from protocol.layout import MAX_DIMS, MAX_PARAMS, Layout, TensorSlot
from tests.protocol import samples

if TYPE_CHECKING:
    from collections.abc import Callable


def slot(name: str, shape: tuple[int, ...], offset: int) -> TensorSlot:
    """Return a head's tensor."""
    return TensorSlot(name=name, shape=shape, offset=offset, role="head")


def test_a_layout_counts_its_values_and_reads_back() -> None:
    assert samples.LAYOUT.n_params == 14
    assert Layout.from_bytes(samples.LAYOUT.to_bytes()) == samples.LAYOUT


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ((slot("a", (2,), 0), slot("b", (2,), 3)), "b begins at 3, expected 2"),
        ((slot("a", (2,), 0), slot("b", (2,), 1)), "b begins at 1, expected 2"),
        ((slot("a", (2,), 1),), "a begins at 1, expected 0"),
        ((slot("a", (2,), 0), slot("a", (2,), 2)), "a name occurs twice"),
        ((slot("a", (MAX_PARAMS, 2), 0),), f"more than {MAX_PARAMS} values"),
    ],
)
def test_a_layout_has_no_gaps_overlaps_repeated_names_or_absurd_sizes(
    tensors: tuple[TensorSlot, ...], what: str
) -> None:
    with pytest.raises(FieldError, match=what):
        Layout(tensors=tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": []},
        {"format": 2},
        {"tensors": [{"name": "a", "shape": [0], "offset": 0, "role": "head"}]},
        {"tensors": [{"name": "a", "shape": [-1, -4], "offset": 0, "role": "head"}]},
        {"tensors": [{"name": "a", "shape": [1] * (MAX_DIMS + 1), "offset": 0, "role": "head"}]},
        {"tensors": [{"name": "a", "shape": [1], "offset": 0, "role": "tail"}]},
        {"tensors": [{"name": "a", "shape": [1], "offset": 0, "role": "head", "scale": float("inf")}]},
    ],
)
def test_a_layout_file_that_breaks_a_rule_is_a_bundle_error(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"layout\.json"):
        Layout.from_bytes(json.dumps(plain(samples.LAYOUT) | change).encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize("read", [Layout.from_bytes, Manifest.from_bytes])
def test_what_is_no_json_table_is_a_bundle_error(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(BundleError):
        read(data)


def test_a_manifest_reads_back() -> None:
    manifest = samples.manifest()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_task_without_labels_and_a_task_on_pictures_read_back() -> None:
    images = ImageFacts(height=8, width=8, channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for manifest in (
        samples.manifest(task=TaskFacts(kind="causal-lm")),
        samples.manifest(task=TaskFacts(kind="image-classification", n_labels=2), tokens=None, images=images),
    ):
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_manifest_says_what_its_examples_are() -> None:
    with pytest.raises(FieldError, match="at least one"):
        samples.manifest(tokens=None)


def test_a_manifest_of_captioned_pictures_or_of_series_reads_as_it_was_written() -> None:
    images = ImageFacts(height=8, width=8, channels=1, mean=(0.5,), std=(0.5,))
    series = SeriesFacts(context=24, horizon=6, channels=2)
    for manifest in (samples.manifest(images=images), samples.manifest(tokens=None, series=series)):
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_normalisation_has_a_value_for_each_channel() -> None:
    with pytest.raises(FieldError, match="3 values"):
        ImageFacts(height=8, width=8, channels=3, mean=(0.5,), std=(0.5, 0.5, 0.5))


def test_a_bundle_is_known_by_the_hash_of_its_manifest() -> None:
    data = samples.manifest().to_bytes()
    assert bundle_id(data) == hashlib.sha256(data).hexdigest()
    assert bundle_id(data + b" ") != bundle_id(data)


@pytest.mark.parametrize("name", ["layout.json", "adapter.f32", "parity.json", "tokenizer.json", "train.onnx"])
def test_a_manifest_vouches_for_every_file_that_it_uses(name: str) -> None:
    files = {key: facts for key, facts in samples.manifest().files.items() if key != name}
    with pytest.raises(FieldError, match=f"no entry for {name}"):
        samples.manifest(files=files)


def test_a_manifest_does_not_vouch_for_itself() -> None:
    files = samples.manifest().files | {"manifest.json": FileFacts(bytes=1, sha256="0" * 64)}
    with pytest.raises(FieldError, match="cannot vouch for itself"):
        samples.manifest(files=files)


def test_the_adapters_file_has_four_bytes_a_parameter() -> None:
    files = samples.manifest().files | {"adapter.f32": FileFacts(bytes=52, sha256="0" * 64)}
    with pytest.raises(FieldError, match="4 bytes for each of 14"):
        samples.manifest(files=files)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "", "a\x00b", "a\nb", "x" * 129, "-rf", "ä", "C:x", "a b"],
)
def test_a_file_name_is_one_plain_component(name: str) -> None:
    value = plain(samples.manifest())
    value["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(BundleError, match="files key"):
        Manifest.from_bytes(json.dumps(value).encode())
    value = plain(samples.manifest())
    value["engines"]["portable"]["train"] = name
    with pytest.raises(BundleError, match=r"engines\.portable\.train"):
        Manifest.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize(
    "facts", [{"bytes": -1}, {"bytes": 2**40}, {"bytes": 1.5}, {"sha256": "0"}, {"sha256": "G" * 64}]
)
def test_the_facts_of_a_file_are_bounded(facts: dict[str, Any]) -> None:
    value = plain(samples.manifest())
    value["files"]["train.onnx"] |= facts
    with pytest.raises(BundleError, match=r"files\.train\.onnx"):
        Manifest.from_bytes(json.dumps(value).encode())


def test_a_manifest_beyond_its_bound_is_not_parsed() -> None:
    with pytest.raises(BundleError, match=str(MAX_MANIFEST_BYTES)):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


def test_a_manifest_of_another_format_is_refused() -> None:
    value = plain(samples.manifest()) | {"format": 2}
    with pytest.raises(BundleError, match="format"):
        Manifest.from_bytes(json.dumps(value).encode())


def test_the_order_of_keys_does_not_change_a_manifests_bytes() -> None:
    manifest = samples.manifest()
    reordered = dataclasses.replace(manifest, files=dict(reversed(manifest.files.items())))
    assert reordered.to_bytes() == manifest.to_bytes()
