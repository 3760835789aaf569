"""Encodings of a flat float32 vector: ``float32``, ``float16`` and ``int8-block``; bounded and self-describing.

``int8-block``: values in blocks of ``block`` share one float32 scale, max|x| / 127; a value is round(x / scale) in
[-127, 127], so its error is at most scale / 2 (a block below 1e-36 decodes to zeros). The rounding error is the
caller's to keep and to add to the next vector (error feedback: Seide et al. 2014; Karimireddy et al. 2019,
arXiv:1901.09847, algorithm 1).

Laws: a payload says what it is; its lengths are checked before anything is allocated; what decodes is finite and has
exactly the expected number of values. Memory: the payload and one float32 vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from protocol import cbor
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import LocalProtocolError, MalformedMessageError, MessageTooLargeError, UpdateError
from protocol.fields import FieldError, Length, Range, plain, structure
from protocol.layout import MAX_PARAMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from protocol.plan import Codec

__all__ = ["EncodedVector", "decode", "encode", "payload_bytes", "read"]

_INT8_MAX = 127  # symmetric: -128 is never produced, so it is refused
_CACHED_VALUES = 16_384  # decoded at once: 64 kB of float32 stay in a core's own cache
_HEAD_BYTES = 128  # keys, names and lengths of a payload; 64 measured


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payload:
    encoding: Literal["float32", "float16", "int8-block"]
    n_values: Annotated[int, Range(1, MAX_PARAMS)]
    values: Annotated[bytes, Length(1, MAX_MESSAGE_BYTES)]
    block: Annotated[int, Range(8, 65536)] | None = None
    scales: Annotated[bytes, Length(4, MAX_MESSAGE_BYTES)] | None = None


class EncodedVector:
    """A checked vector that is decoded where it is looked at: ``vector[first:last]`` is float32 [last - first].

    Each value is its level times its block's scale, rounded to float32, however it is cut. It holds what came, a byte a
    value for ``int8-block``, where a decoded vector has four.
    """

    __slots__ = ("_block", "_raw", "_scales")

    def __init__(self, raw: NDArray[Any], *, scales: NDArray[np.float32] | None, block: int) -> None:
        """Take levels int8 [n_values] and scales [n_blocks], or floats [n_values] without scales."""
        self._raw, self._scales, self._block = raw, scales, block

    @property
    def size(self) -> int:
        """How many values it has."""
        return self._raw.size

    def __getitem__(self, cut: slice) -> NDArray[np.float32]:
        """Return the values of ``cut``, which has no step."""
        first, last, _ = cut.indices(self.size)
        values = np.empty(max(0, last - first), np.float32)
        for low in range(first, last, _CACHED_VALUES):
            high = min(last, low + _CACHED_VALUES)
            self._decode(low, values[low - first : high - first])
        return values

    def _decode(self, first: int, out: NDArray[np.float32]) -> None:
        """Write the values from ``first`` on to ``out``: rows of whole blocks, and what is cut off at both ends."""
        out[:] = self._raw[first : first + out.size]
        if self._scales is None:
            return
        block = self._block
        begin = min(out.size, -first % block)  # where the first whole block begins
        end = begin + (out.size - begin) // block * block
        number = (first + begin) // block
        rows = out[begin:end].reshape(-1, block)  # [whole blocks, block]
        rows *= self._scales[number : number + len(rows), None]
        if begin:
            out[:begin] *= self._scales[first // block]
        if end < out.size:
            out[end:] *= self._scales[number + len(rows)]


def payload_bytes(codec: Codec, n_values: int) -> int:
    """Return an upper bound of the length of an encoded vector of ``n_values``."""
    match codec.name:
        case "float32":
            return 4 * n_values + _HEAD_BYTES
        case "float16":
            return 2 * n_values + _HEAD_BYTES
        case "int8-block":
            return n_values + 4 * _n_blocks(n_values, codec.block) + _HEAD_BYTES


def encode(vector: NDArray[np.float32], codec: Codec) -> bytes:
    """Return the payload of ``vector``, float32 [n_values].

    Raises:
        LocalProtocolError: not a finite float32 vector, or too large for float16 (our fault).
    """
    if vector.dtype != np.float32 or vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all():
        raise LocalProtocolError("only a finite, flat float32 vector with at least one value is encoded")
    match codec.name:
        case "float32":
            payload = _Payload(encoding="float32", n_values=vector.size, values=vector.astype("<f4").tobytes())
        case "float16":
            if np.abs(vector).max() > np.finfo(np.float16).max:
                raise LocalProtocolError("a value is beyond float16's range: use float32")
            payload = _Payload(encoding="float16", n_values=vector.size, values=vector.astype("<f2").tobytes())
        case "int8-block":
            payload = _encode_int8(vector, codec.block)
    return cbor.dumps(plain(payload))


def decode(data: bytes, *, n_values: int) -> NDArray[np.float32]:
    """Return the vector in ``data``, float32 [n_values], finite; errors as in ``read``."""
    return read(data, n_values=n_values)[:]


def read(data: bytes, *, n_values: int) -> EncodedVector:
    """Return the vector in ``data``, checked and not yet decoded.

    Raises:
        UpdateError: ``oversize`` (longer than any encoding of ``n_values``), ``wrong-shape``, ``not-finite`` or
            ``bad-encoding`` (the peer's fault).
    """
    try:
        payload = structure(_Payload, cbor.loads(data, max_bytes=4 * n_values + _HEAD_BYTES + 4 * n_values // 8))
    except MessageTooLargeError as error:
        raise UpdateError(f"longer than any encoding of {n_values} values", reason="oversize") from error
    except (FieldError, MalformedMessageError) as error:
        raise UpdateError(f"not an encoded vector: {error}", reason="bad-encoding") from error
    if payload.n_values != n_values:
        raise UpdateError(f"expected {n_values} values, got {payload.n_values}", reason="wrong-shape")
    return _read_int8(payload) if payload.encoding == "int8-block" else _read_floats(payload)


def _n_blocks(n_values: int, block: int) -> int:
    return -(-n_values // block)


def _expect_length(what: str, data: bytes | None, n_bytes: int) -> bytes:
    if data is None or len(data) != n_bytes:
        got = "nothing" if data is None else f"{len(data)} bytes"
        raise UpdateError(f"{what}: expected {n_bytes} bytes, got {got}", reason="bad-encoding")
    return data


def _read_floats(payload: _Payload) -> EncodedVector:
    dtype = np.dtype("<f4" if payload.encoding == "float32" else "<f2")
    raw = _expect_length("values", payload.values, dtype.itemsize * payload.n_values)
    if payload.block is not None or payload.scales is not None:
        raise UpdateError(f"{payload.encoding} has no blocks", reason="bad-encoding")
    return _finite(EncodedVector(np.frombuffer(raw, dtype=dtype), scales=None, block=1))


def _finite(vector: EncodedVector) -> EncodedVector:
    with np.errstate(over="ignore"):  # an infinity is what is looked for
        for first in range(0, vector.size, _CACHED_VALUES):
            if not np.isfinite(vector[first : first + _CACHED_VALUES]).all():
                raise UpdateError("a value is NaN or infinite", reason="not-finite")
    return vector


def _encode_int8(vector: NDArray[np.float32], block: int) -> _Payload:
    n_blocks = _n_blocks(vector.size, block)
    padded = np.zeros(n_blocks * block, np.float32)
    padded[: vector.size] = vector
    blocks = padded.reshape(n_blocks, block)  # [n_blocks, block]
    scales = _scales(blocks)  # [n_blocks]
    safe = np.where(scales > 0, scales, np.float32(1))
    levels = np.rint(np.where(scales[:, None] > 0, blocks, 0) / safe[:, None])
    levels = np.clip(levels, -_INT8_MAX, _INT8_MAX).astype(np.int8)  # [n_blocks, block]
    return _Payload(
        encoding="int8-block",
        n_values=vector.size,
        block=block,
        scales=scales.astype("<f4").tobytes(),
        values=levels.reshape(-1)[: vector.size].tobytes(),
    )


def _scales(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return max|x| / 127 of each block, 0 or normal, and such that 127 times it is finite."""
    scales: NDArray[np.float32] = (np.abs(blocks).max(axis=1) / np.float32(_INT8_MAX)).astype(np.float32)  # [n_blocks]
    # Zeros, and values so small that a scale would be subnormal and inexact, decode to zeros.
    scales[scales < np.finfo(np.float32).tiny] = 0
    # Rounded up, the scale of the largest floats would decode to infinity.
    is_too_large = scales.astype(np.float64) * _INT8_MAX > float(np.finfo(np.float32).max)
    np.nextafter(scales, np.float32(0), out=scales, where=is_too_large)
    return scales


def _read_int8(payload: _Payload) -> EncodedVector:
    if payload.block is None:
        raise UpdateError("block: missing", reason="bad-encoding")
    n_blocks = _n_blocks(payload.n_values, payload.block)
    scales = np.frombuffer(_expect_length("scales", payload.scales, 4 * n_blocks), "<f4")  # [n_blocks]
    levels = np.frombuffer(_expect_length("values", payload.values, payload.n_values), np.int8)  # [n_values]
    if not np.isfinite(scales).all():
        raise UpdateError("a scale is NaN or infinite", reason="not-finite")
    if scales.min() < 0 or levels.min() < -_INT8_MAX:
        raise UpdateError("a scale is negative or a level is -128", reason="bad-encoding")
    vector = EncodedVector(levels, scales=scales.astype(np.float32), block=payload.block)
    # Only a scale that is too large makes an infinity: looking at the scales saves a pass over the values.
    is_bounded = float(scales.max()) * _INT8_MAX < float(np.finfo(np.float32).max)
    return vector if is_bounded else _finite(vector)
