from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor, codec
from protocol.errors import LocalProtocolError, UpdateError
from protocol.plan import Codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 8
# Below this a block decodes to zeros, as the codec says: its scale would be subnormal.
SMALLEST_KEPT = 127 * float(np.finfo(np.float32).tiny)

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(floats, min_size=1, max_size=40).map(lambda values: np.array(values, np.float32))
halves = st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))


def roundtrip(vector: NDArray[np.float32], one: Codec) -> NDArray[np.float32]:
    """Return what a peer decodes; also holds every payload against its stated bound."""
    data = codec.encode(vector, one)
    assert len(data) <= codec.payload_bytes(one, vector.size)
    decoded = codec.decode(data, n_values=vector.size)
    assert decoded.dtype == np.float32
    assert decoded.shape == vector.shape
    return decoded


@given(vectors)
def test_float32_gives_back_the_same_vector(vector: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(roundtrip(vector, Codec(name="float32")), vector)


@given(halves)
def test_float16_gives_back_the_nearest_half(vector: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(roundtrip(vector, Codec(name="float16")), vector.astype(np.float16))


@given(vectors)
def test_the_error_of_int8_block_is_at_most_half_a_scale(vector: NDArray[np.float32]) -> None:
    error = np.abs(roundtrip(vector, Codec(block=BLOCK)).astype(np.float64) - vector)
    for start in range(0, vector.size, BLOCK):
        largest = float(np.abs(vector[start : start + BLOCK].astype(np.float64)).max())
        bound = largest / 127 / 2 if largest >= SMALLEST_KEPT else largest
        # Scale, quotient and product are each rounded to float32: 127 levels of one part in 2**24, three times.
        assert error[start : start + BLOCK].max() <= bound * (1 + 127 * 3 * 2**-23)


def test_with_error_feedback_the_sum_of_what_arrives_follows_the_sum_of_what_was_meant() -> None:
    rng = np.random.default_rng(1)
    residual, meant, arrived = np.zeros(100, np.float32), np.zeros(100), np.zeros(100)
    largest_scale = 0.0
    for _ in range(200):
        delta = rng.normal(size=100).astype(np.float32)
        vector = delta + residual
        decoded = roundtrip(vector, Codec(block=BLOCK))
        residual = vector - decoded
        largest_scale = max(largest_scale, float(np.abs(vector).max()) / 127)
        meant += delta
        arrived += decoded
    # The sums differ by the last residual alone (Karimireddy et al. 2019, lemma 3), however many rounds there were.
    assert np.abs(meant - arrived).max() <= largest_scale / 2 + 1e-4
    np.testing.assert_allclose(meant - arrived, residual, atol=1e-4)


def test_int8_block_takes_less_than_0_30_of_float32() -> None:
    vector = np.random.default_rng(2).normal(size=80_000).astype(np.float32)
    assert len(codec.encode(vector, Codec())) <= 0.30 * len(codec.encode(vector, Codec(name="float32")))


@given(vectors)
def test_equal_vectors_are_equal_bytes(vector: NDArray[np.float32]) -> None:
    assert codec.encode(vector, Codec()) == codec.encode(vector.copy(), Codec())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["float32", "float16", "int8-block"])
def test_a_vector_that_is_not_finite_is_not_encoded(name: Any, value: float) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode(np.array([0, value], np.float32), Codec(name=name))


@pytest.mark.parametrize("vector", [np.zeros(0, np.float32), np.zeros((2, 2), np.float32), np.zeros(2)])
def test_only_a_flat_float32_vector_with_values_is_encoded(vector: NDArray[Any]) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode(vector, Codec())


def test_a_value_beyond_float16_is_not_encoded_as_one() -> None:
    with pytest.raises(LocalProtocolError, match="float16"):
        codec.encode(np.array([65536], np.float32), Codec(name="float16"))


@pytest.mark.parametrize("largest", [3.4028234e38, -3.4028234e38, 1e-45, 1.5e-36, 1.1754944e-38, 0.0])
def test_the_ends_of_float32_decode_to_finite_values(largest: float) -> None:
    vector = np.array([largest, largest / 2, 0, 1e-45], np.float32)
    error = np.abs(roundtrip(vector, Codec(block=BLOCK)) - vector)
    assert error.max() <= max(abs(largest) / 127 / 2 * (1 + 1e-4), SMALLEST_KEPT)


def payload(**changes: object) -> bytes:
    """Return an encoded int8-block vector of ten values with ``changes``; a change to None leaves the key out."""
    whole = {
        "encoding": "int8-block",
        "n_values": 10,
        "block": BLOCK,
        "scales": np.ones(2, "<f4").tobytes(),
        "values": bytes(10),
    }
    return cbor.dumps({key: value for key, value in (whole | changes).items() if value is not None})


def f4(*values: float) -> bytes:
    """Return little-endian float32."""
    return np.array(values, "<f4").tobytes()


def test_the_payload_that_the_refusals_vary_is_itself_taken() -> None:
    np.testing.assert_array_equal(codec.decode(payload(), n_values=10), np.zeros(10))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("bad-encoding", {"encoding": "int4"}),
        ("bad-encoding", {"block": None}),
        ("bad-encoding", {"scales": None}),
        ("bad-encoding", {"block": 7}),
        ("bad-encoding", {"scales": f4(1, 1, 1)}),
        ("bad-encoding", {"scales": f4(1, -1)}),
        ("bad-encoding", {"values": bytes(9)}),
        ("bad-encoding", {"values": bytes(11)}),
        ("bad-encoding", {"values": b"\x80" + bytes(9)}),
        ("bad-encoding", {"surprise": 1}),
        ("bad-encoding", {"encoding": "float32", "values": bytes(40)}),
        ("bad-encoding", {"encoding": "float16", "values": bytes(20), "block": None}),
        ("bad-encoding", {"encoding": "float32", "values": bytes(39), "block": None, "scales": None}),
        ("wrong-shape", {"n_values": 11, "values": bytes(11)}),
        ("wrong-shape", {"n_values": 9, "values": bytes(9)}),
        ("not-finite", {"scales": f4(1, math.nan)}),
        ("not-finite", {"scales": f4(math.inf, 1)}),
        ("not-finite", {"scales": f4(3.4e38, 1), "values": b"\x7f" + bytes(9)}),
        ("not-finite", {"encoding": "float32", "values": f4(*[math.nan] * 10), "block": None, "scales": None}),
        ("not-finite", {"encoding": "float16", "values": b"\x00\x7c" * 10, "block": None, "scales": None}),
        ("oversize", {"values": bytes(1000)}),
    ],
)
def test_a_payload_that_breaks_a_rule_is_refused_with_its_reason(reason: str, changes: dict[str, object]) -> None:
    with pytest.raises(UpdateError) as refused:
        codec.decode(payload(**changes), n_values=10)
    assert refused.value.reason == reason


@given(st.data())
def test_a_payload_cut_anywhere_is_refused(data: st.DataObject) -> None:
    whole = payload()
    with pytest.raises(UpdateError):
        codec.decode(whole[: data.draw(st.integers(0, len(whole) - 1))], n_values=10)


@given(st.binary(max_size=160))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(UpdateError):
        codec.decode(data, n_values=10)


@pytest.mark.parametrize("block", [8, 64, 1000, 65536])
@pytest.mark.parametrize("size", [1, 7, 64, 16_384, 70_001])
def test_decoding_in_pieces_is_bit_for_bit_each_level_times_its_scale(block: int, size: int) -> None:
    vector = np.random.default_rng(size).normal(0, 1e-3, size).astype(np.float32)
    data = codec.encode(vector, Codec(name="int8-block", block=block))
    payload = cbor.loads(data, max_bytes=len(data))
    levels, scales = np.frombuffer(payload["values"], np.int8), np.frombuffer(payload["scales"], "<f4")
    expected = levels.astype(np.float32) * np.repeat(scales, block)[:size]
    assert codec.decode(data, n_values=size).tobytes() == expected.tobytes()
