"""The exact bytes of protocol version 1. A red test here means a new protocol version, not new golden files."""

from __future__ import annotations

import numpy as np
import pytest

from protocol import codec
from protocol.bundle import Manifest
from protocol.layout import Layout
from protocol.messages import PROTOCOL_VERSION, Kind, unpack_body, unpack_content, unpack_envelope
from protocol.sealing import binding
from protocol.signing import VerifyKey, open_envelope
from tests.protocol import samples

VALUES = samples.golden_values()


def test_the_golden_files_belong_to_this_version_of_the_protocol() -> None:
    names = {path.name for path in samples.GOLDEN.iterdir()}
    assert names == {f"{name}.v{PROTOCOL_VERSION}.hex" for name in (*VALUES, "sealed")}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_encoding_gives_the_golden_bytes(name: str) -> None:
    assert VALUES[name] == samples.golden(name)


@pytest.mark.parametrize("kind", sorted(samples.BODIES))
def test_a_golden_envelope_opens_to_the_golden_body(kind: Kind) -> None:
    envelope = unpack_envelope(samples.golden(f"envelope-{kind}"))
    assert envelope.body == samples.golden(f"body-{kind}")
    key = VerifyKey(samples.golden("key-public"))
    assert open_envelope(envelope, fleet=samples.FLEET, key=key) == samples.BODIES[kind]
    assert unpack_body(kind, envelope.body) == samples.BODIES[kind]


@pytest.mark.parametrize("name", sorted(samples.CODECS))
def test_golden_vectors_decode_to_the_same_values(name: str) -> None:
    vector = codec.decode(samples.golden(f"codec-{name}"), n_values=samples.VECTOR.size)
    # 127 is the first block's largest value, so its scale is exactly 1 and its values are the rounded ones.
    rounded = np.array([0, 1, -1, 0, 0, -127, 3, 0, 2, 64], np.float32)
    close = {"float32": samples.VECTOR, "float16": samples.VECTOR.astype(np.float16), "int8-block": rounded}[name]
    np.testing.assert_allclose(vector, close.astype(np.float32), rtol=1e-2 if name == "int8-block" else 0)


def test_a_golden_sealed_update_opens_to_the_golden_content() -> None:
    opened = samples.TASK_KEY.open(samples.golden("sealed"), info=binding(**samples.BINDING))  # type: ignore[arg-type]
    assert opened == samples.golden("content")
    assert unpack_content(opened) == samples.CONTENT


def test_golden_layout_and_manifest_read_back() -> None:
    assert Layout.from_bytes(samples.golden("layout")) == samples.LAYOUT
    assert Manifest.from_bytes(samples.golden("manifest")) == samples.manifest()
