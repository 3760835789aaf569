"""The drawn bundle: what is in it is on the page, and nothing that a bundle says becomes markup or an address."""

import re
from dataclasses import replace

import pytest

from export.bundle import Exported
from export.inspect import Inspected, inspect
from export.inspect_page import page
from protocol.bundle import TierFacts

MB = 2**20


@pytest.fixture(scope="module")
def found(exported: Exported) -> Inspected:
    return inspect(exported.folder)


def test_a_weight_that_both_graphs_read_counts_once(found: Inspected, exported: Exported) -> None:
    outside = exported.manifest.files["weights.bin"].bytes
    floats = found.weights["float32"]
    assert 0.9 * outside < floats.bytes < outside + 64 * 1024
    assert floats.bytes == 4 * floats.n_values
    assert next(iter(found.weights)) == "float32"  # the largest first


def test_the_page_names_every_operator_role_file_and_tier(found: Inspected) -> None:
    text = page(found)
    for graph in found.graphs:
        assert all(f">{name}</text>" in text for name in list(graph.operators)[:10])
    for name in (*found.roles, *found.manifest.files, "pi-zero2", found.id):
        assert name in text


def test_the_page_loads_nothing_and_escapes_what_the_bundle_says(found: Inspected) -> None:
    source = '<script src="https://example.org/x.js">&'
    manifest = replace(
        found.manifest,
        model=replace(found.manifest.model, source=source),
        tier=TierFacts(name="<b>", budget_bytes=100 * MB, batch=1, seq=8),
    )
    layers = {"<img src=x onerror=y>": {"lora_A": 1}}
    text = page(replace(found, manifest=manifest, layers=layers))
    assert not re.search(r"<(script|img|b|link|iframe)\b", text)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!&)""", text)
    assert "&lt;script" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text


def test_a_bundle_without_a_plan_says_so(found: Inspected) -> None:
    assert "no memory plan" in page(replace(found, manifest=replace(found.manifest, memory=None)))
