"""Reading graphs from hostile bytes: refused or taken, never anything else; and never taken for what it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BundleError
from protocol.onnx_operators import ALLOWED
from protocol.onnx_reader import MAX_GRAPH_BYTES, check_graph
from tests.attacks import hostile_graphs

if TYPE_CHECKING:
    from collections.abc import Mapping

STANDARD = ALLOWED["portable"][0]
GOOD = hostile_graphs.good()


def check(data: bytes, operators: Mapping[str, frozenset[str]] = STANDARD) -> None:
    check_graph(data, operators=operators, weights_name="weights.bin", weights_bytes=64)


def is_taken(data: bytes) -> bool:
    try:
        check(data)
    except BundleError:
        return False
    return True


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_taken(data: bytes) -> None:
    is_taken(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_what_is_taken_with_a_changed_byte_holds_what_the_onnx_package_sees_too(at: int, flip: int) -> None:
    onnx = pytest.importorskip("onnx")
    data = bytearray(GOOD)
    data[at] ^= flip
    if not is_taken(bytes(data)):
        return
    try:
        model = onnx.load_from_string(bytes(data))
    except Exception:  # noqa: BLE001 - protobuf's own errors share no base; it refuses the text of a name, for instance
        return
    assert not model.functions
    assert all(node.op_type in STANDARD[""] and node.domain in {"", "ai.onnx"} for node in model.graph.node)
    assert all(one.value == "weights.bin" for t in model.graph.initializer for one in t.external_data[:1])


@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_graph_is_refused_or_whole(n_bytes: int) -> None:
    is_taken(GOOD[:n_bytes])


def test_a_graph_beyond_the_bound_is_refused_by_its_length() -> None:
    with pytest.raises(BundleError, match="bytes, at most"):
        check(bytes(MAX_GRAPH_BYTES + 1))


def test_the_standard_domain_has_two_names() -> None:
    check(GOOD)
    with pytest.raises(BundleError, match="'Identity' is not allowed"):
        check(GOOD, {"": frozenset({"Constant"})})


def test_no_list_holds_control_flow_randomness_or_text() -> None:
    starts = ("If", "Loop", "Scan", "Sequence", "Optional", "Random", "Bernoulli", "Multinomial", "String", "Regex")
    for graphs in ALLOWED.values():
        for operators in graphs:
            assert not [name for names in operators.values() for name in names if name.startswith(starts)]
