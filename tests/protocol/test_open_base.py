"""Which weights may change is read from a bundle's maker, so everything that does not fit is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from protocol.errors import BundleError
from protocol.open_base import OpenBase
from tests.aggregator.core.strategies.lora_fleet import LAYOUT, make_layout
from tests.protocol.open_base_files import open_base_of

if TYPE_CHECKING:
    from collections.abc import Callable

N_BYTES = 4 * (6 * 5 + 3 * 7)
GOOD = open_base_of(LAYOUT)


def test_what_is_written_is_read() -> None:
    assert OpenBase.from_bytes(GOOD.to_bytes(), layout=LAYOUT, weights_bytes=N_BYTES) == GOOD


def test_another_layout_or_a_shorter_weights_file_is_refused() -> None:
    other = json.loads(GOOD.to_bytes())
    other["weights"].reverse()
    for data, n_bytes in ((json.dumps(other).encode(), N_BYTES), (GOOD.to_bytes(), N_BYTES - 1)):
        with pytest.raises(BundleError):
            OpenBase.from_bytes(data, layout=LAYOUT, weights_bytes=n_bytes)
    assert OpenBase.from_bytes(GOOD.to_bytes(), layout=make_layout(2), weights_bytes=N_BYTES) == GOOD  # any rank


def _first(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda whole: change(whole["weights"][0])


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_first(lambda one: one.update(n_in=6)), "not those of the layout"),
        (_first(lambda one: one.update(n_out=10**12)), "n_out"),
        (_first(lambda one: one["stored"].pop()), "stored"),
        (_first(lambda one: one["stored"][1].update(graph="train", name="other")), "must be in both graphs"),
        (_first(lambda one: one["stored"][0].update(graph="other")), "graph"),
        (_first(lambda one: one["stored"][0].update(offset=2)), "does not lie in the weights file"),
        (_first(lambda one: one["stored"][0].update(offset=2**40)), "offset"),
        (_first(lambda one: one["stored"][0].update(offset=-4)), "offset"),
        (lambda whole: whole["weights"].append(whole["weights"][0]), "named twice"),
        (lambda whole: whole["weights"].pop(), "not those of the layout"),
        (lambda whole: whole.update(weights=[]), "weights"),
        (lambda whole: whole.update(format=2), "format"),
        (lambda whole: whole.update(more=1), "more"),
    ],
)
def test_what_does_not_fit_is_named(spoil: Callable[[dict[str, Any]], object], what: str) -> None:
    whole = json.loads(GOOD.to_bytes())
    spoil(whole)
    with pytest.raises(BundleError, match=what):
        OpenBase.from_bytes(json.dumps(whole).encode(), layout=LAYOUT, weights_bytes=N_BYTES)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="not one of format 1"):
        OpenBase.from_bytes(data, layout=LAYOUT, weights_bytes=N_BYTES)
