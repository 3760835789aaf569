"""Every attack in this folder is refused, for its own reason, quickly and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from host import keys
from host.bundle_folder import open_bundle
from protocol.errors import BundleError, ConfigError
from protocol.signing import SigningKey
from tests.attacks import hostile_bundles, hostile_graphs, hostile_litert, hostile_messages, hostile_vectors
from tests.protocol import samples
from tests.protocol.tflite_bytes import GOOD as GOOD_LITERT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_SECONDS = 2.0  # the slowest takes 50 ms here
MAX_GRAPH_SECONDS = 10.0  # of this process; the one of half a million fields takes a second or two
MAX_MEMORY_BYTES = 4 << 20  # four times the largest message that is looked at

MESSAGES = dict(hostile_messages.attacks())
VECTORS = {name: (reason, data) for name, reason, data in hostile_vectors.attacks()}
BUNDLES = dict(hostile_bundles.attacks())
GRAPHS = {name: (why, data) for name, why, data in hostile_graphs.attacks()}
LITERT = {name: (why, data) for name, why, data in hostile_litert.attacks()}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_hostile_message_is_refused(name: str) -> None:
    tracemalloc.start()
    try:
        began = time.perf_counter()
        reason = hostile_messages.reason_of(MESSAGES[name])
        assert time.perf_counter() - began < MAX_SECONDS
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY_BYTES
    finally:
        tracemalloc.stop()
    assert reason == ("oversize" if name == "oversize" else "malformed")


def test_the_message_that_the_attacks_vary_is_itself_taken() -> None:
    assert hostile_messages.reason_of(samples.golden("envelope-join")) == "taken"
    assert hostile_vectors.reason_of(hostile_vectors.payload()) == "taken"


@pytest.mark.parametrize("name", VECTORS)
def test_a_hostile_vector_is_refused_for_its_own_reason(name: str) -> None:
    reason, data = VECTORS[name]
    assert hostile_vectors.reason_of(data) == reason


@pytest.mark.parametrize("name", BUNDLES)
def test_a_spoilt_bundle_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    began = time.perf_counter()
    refusal = hostile_bundles.refusal_of(BUNDLES[name], tmp_path / "bundle")
    assert time.perf_counter() - began < MAX_SECONDS
    assert refusal is not None
    assert "\n" not in refusal


def check_refused(attack: Callable[[], str | None], *parts: str) -> None:
    began = time.process_time()
    refusal = attack()
    assert time.process_time() - began < MAX_GRAPH_SECONDS
    assert refusal is not None
    assert all(part in refusal for part in parts)
    assert len(refusal) < 500
    assert refusal.isprintable()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_hostile_graph_is_refused_for_its_own_reason(name: str, tmp_path: Path) -> None:
    why, data = GRAPHS[name]
    check_refused(lambda: hostile_bundles.refusal_of_graph(data, tmp_path / "bundle"), why, "train.onnx")


@pytest.mark.parametrize("name", ["the operator .Loop", "a function", "weights at a path outside", "an empty file"])
def test_a_hostile_graph_of_single_examples_is_read_like_any_other(name: str, tmp_path: Path) -> None:
    why, data = GRAPHS[name]
    check_refused(lambda: hostile_bundles.refusal_of_example_graph(data, tmp_path / "bundle"), why, "single.onnx")


def test_a_graph_of_single_examples_that_is_not_there_is_refused_and_a_good_one_is_taken(tmp_path: Path) -> None:
    refusal = hostile_bundles.refusal_of_example_graph(None, tmp_path / "none")
    assert refusal is not None
    assert "single.onnx" in refusal
    assert hostile_bundles.refusal_of_example_graph(hostile_graphs.good(), tmp_path / "good") is None


def test_the_graph_that_the_attacks_vary_is_itself_taken(tmp_path: Path) -> None:
    assert hostile_bundles.refusal_of_graph(hostile_graphs.good(), tmp_path / "bundle") is None


@pytest.mark.parametrize("name", LITERT)
def test_a_hostile_litert_file_is_refused_for_its_own_reason(name: str, tmp_path: Path) -> None:
    why, data = LITERT[name]
    check_refused(lambda: hostile_bundles.refusal_of_litert(data, tmp_path / "bundle"), why, "model.tflite")


def test_the_litert_file_that_the_attacks_vary_is_itself_taken(tmp_path: Path) -> None:
    assert hostile_bundles.refusal_of_litert(GOOD_LITERT, tmp_path / "bundle") is None


def test_a_changed_graph_is_refused_for_its_hash_before_it_is_read(tmp_path: Path) -> None:
    hostile_bundles.make_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "train.onnx").write_bytes(b"x" * len(hostile_bundles.CONTENT["train.onnx"]))
    with pytest.raises(BundleError, match="not what the manifest says"):
        open_bundle(tmp_path / "bundle")


def test_a_good_bundle_of_another_id_is_refused(tmp_path: Path) -> None:
    hostile_bundles.make_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="expected bundle"):
        open_bundle(tmp_path / "bundle", expected_id="0" * 64)


def test_a_good_bundle_gives_paths_for_its_own_files_only(tmp_path: Path) -> None:
    expected = hostile_bundles.make_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle", expected_id=expected)
    assert (bundle.id, bundle.layout) == (expected, samples.LAYOUT)
    assert bundle.path("train.onnx") == tmp_path / "bundle" / "train.onnx"
    with pytest.raises(BundleError, match="no file"):
        bundle.path("../key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
@pytest.mark.parametrize("load", [keys.load_signing_key, keys.load_task_key])
def test_a_key_that_others_can_read_is_refused_with_what_to_do(
    load: Callable[[Path], object], mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "device.key"
    keys.save_key(path, SigningKey.generate())
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path)
