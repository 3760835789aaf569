"""A base change is added to the bundle's own weights, whichever way round a graph has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from host.base_change import changed_base, open_base
from host.bundle_folder import Bundle, open_bundle
from protocol.errors import BundleError, ConfigError, UpdateError
from tests.aggregator.core.strategies.lora_fleet import LAYOUT
from tests.aggregator.workbench import make_bundle

if TYPE_CHECKING:
    from pathlib import Path

N_DENSE = 6 * 5 + 3 * 7


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(make_bundle(tmp_path / "bundle", layout=LAYOUT, has_open_base=True))


def test_no_change_is_the_bundles_own_weights_bit_for_bit(bundle: Bundle) -> None:
    base = changed_base(bundle, np.zeros(N_DENSE, np.float32))
    own = np.fromfile(bundle.path("weights.bin"), "<f4")
    np.testing.assert_array_equal(base.train["w0"], own[:30].reshape(6, 5))
    np.testing.assert_array_equal(base.evaluate["w1"], own[30:].reshape(7, 3))  # lies transposed
    assert base.train["w0"] is base.evaluate["w0"]  # in memory once


def test_a_change_is_added_the_way_round_that_the_graph_has(bundle: Bundle) -> None:
    change = np.arange(N_DENSE, dtype=np.float32)
    base, own = changed_base(bundle, change), np.fromfile(bundle.path("weights.bin"), "<f4")
    np.testing.assert_array_equal(base.train["w0"], own[:30].reshape(6, 5) + change[:30].reshape(6, 5))
    np.testing.assert_array_equal(base.train["w1"], own[30:].reshape(7, 3) + change[30:].reshape(3, 7).T)


@pytest.mark.parametrize("n_values", [0, N_DENSE - 1, N_DENSE + 1])
def test_a_change_of_another_length_is_refused(bundle: Bundle, n_values: int) -> None:
    with pytest.raises(UpdateError, match=f"{n_values} values, expected {N_DENSE}"):
        changed_base(bundle, np.zeros(n_values, np.float32))


def test_a_change_that_makes_a_weight_infinite_is_refused(bundle: Bundle) -> None:
    own = np.full(N_DENSE, 3e38, "<f4")
    bundle.path("weights.bin").write_bytes(own.tobytes())
    with pytest.raises(UpdateError, match=r"makes q infinite"):
        changed_base(bundle, own)


def test_a_bundle_without_the_file_has_nothing_that_may_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be changed: it has no base\.json"):
        open_base(open_bundle(make_bundle(tmp_path / "bundle", layout=LAYOUT)))


def test_weights_that_vanished_are_the_bundles_fault(bundle: Bundle) -> None:
    bundle.path("weights.bin").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        changed_base(bundle, np.zeros(N_DENSE, np.float32))
