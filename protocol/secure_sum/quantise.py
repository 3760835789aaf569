"""Fixed-point vectors modulo 2**bits that are summed exactly and cannot wrap, packed to ``bits`` bits on the wire.

A device with w examples, of at most W, contributes q = round(x * w / W / step) for each coordinate, with
step = C / L, |x| <= C, and L the largest level such that n * L <= 2**(bits-1) - 1; then one more coordinate, w.
A sum of n such vectors stays in [-n L, n L], so it is read back from its residue without ambiguity, and the sum of
weights stays in [0, n W] below 2**bits.

Error: a device's rounding is at most half a step (``nearest``) or less than one step (``stochastic``, unbiased), so a
coordinate of the weighted mean is off by at most n * step / 2 * W / sum(w), or twice that: ``error_bound``.

Laws: a value beyond the clip is refused, never clipped in silence; sums are exact modulo 2**bits; spare bits of a
packed vector are zero. Does not know about masks. Memory: a few vectors of 8 bytes a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.secure_sum.masks import keystream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["MAX_BITS", "Quantiser", "WeightedMean", "pack", "packed_bytes", "unpack"]

MAX_BITS: Final = 32  # sums run in uint32, whose own wrap-around is modulo 2**32, a multiple of every smaller modulus
_LANES: Final = 8  # eight values of b bits are exactly b bytes
_WORD_BYTES: Final = 8  # a value of 32 bits, shifted by up to 7, is within one word
_BLOCK_VALUES: Final = 2**15  # as float64 256 KiB, which stay in a core's second-level cache


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """What a sum says: ``mean`` float64 [n_params], and the summed weight."""

    mean: NDArray[np.float64]
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiser:
    """The agreed fixed-point format of one sum.

    Attributes:
        n_params: length of the vectors.
        clip: bound of every |value|; a bound of the norm is one.
        weight_cap: largest weight (examples) of one device.
        input_bits: precision asked for: at least 2**(input_bits - 1) - 1 levels on each side of zero.
        max_cohort: devices in a sum, at most.
        noise_levels: room on each side of zero for the sum of the noise that devices add to their levels.

    Raises:
        ConfigError: more than 32 bits would be needed, or a figure is out of range (the operator's fault).
    """

    n_params: int
    clip: float
    weight_cap: int
    input_bits: int
    max_cohort: int
    noise_levels: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.clip > 0 and np.isfinite(self.clip) and self.n_params >= 1 and self.max_cohort >= 1):
            raise ConfigError("clip, n_params and max_cohort must be positive")
        if self.weight_cap < 1 or self.input_bits < 2:
            raise ConfigError("weight_cap must be at least 1 and input_bits at least 2")
        if self.bits > MAX_BITS:
            raise ConfigError(
                f"{self.input_bits} bits, {self.max_cohort} devices and weights to {self.weight_cap} need sums of "
                f"{self.bits} bits, at most {MAX_BITS} are there: lower input_bits or weight_cap"
            )

    @property
    def bits(self) -> int:
        """Bits of the modulus: signed sums of levels and unsigned sums of weights both fit."""
        levels = self.max_cohort * (2 ** (self.input_bits - 1) - 1) + self.noise_levels
        signed, unsigned = (2 * levels + 1).bit_length(), (self.max_cohort * self.weight_cap).bit_length()
        return int(max(signed, unsigned))

    @property
    def n_values(self) -> int:
        """Values on the wire: the parameters and the weight."""
        return self.n_params + 1

    @property
    def n_levels(self) -> int:
        """L, the largest level of one device."""
        return int((2 ** (self.bits - 1) - 1 - self.noise_levels) // self.max_cohort)

    @property
    def step(self) -> float:
        """One level, in units of x * w / W."""
        return self.clip / self.n_levels

    def error_bound(self, *, n: int, weight: int, is_stochastic: bool = False) -> float:
        """Return the largest error of a coordinate of the mean of ``n`` devices with the summed ``weight``."""
        return n * self.step * (1.0 if is_stochastic else 0.5) * self.weight_cap / weight

    def encode(self, vector: NDArray[np.float32], weight: int, *, seed: bytes | None = None) -> NDArray[np.uint32]:
        """Return the device's contribution modulo 2**bits; uint32 [n_params + 1].

        Args:
            vector: float32 [n_params], finite, within the clip.
            weight: examples, 1 to ``weight_cap``.
            seed: 32 random bytes for stochastic rounding; None rounds to the nearest level.

        Raises:
            LocalProtocolError: the vector or weight breaks its bound (our fault: clip first).
        """
        if vector.dtype != np.float32 or vector.shape != (self.n_params,) or not np.isfinite(vector).all():
            raise LocalProtocolError(f"expected a finite float32 vector of {self.n_params} values")
        if not 1 <= weight <= self.weight_cap:
            raise LocalProtocolError(f"a weight must be 1 to {self.weight_cap}, got {weight}")
        if max(float(vector.max()), -float(vector.min())) > self.clip:
            raise LocalProtocolError(f"a value is beyond the clip of {self.clip}")
        draws = None if seed is None else keystream(seed, self.n_params)  # uint32 [n_params]
        levels_per_unit = weight / self.weight_cap / self.step
        encoded = np.empty(self.n_values, np.uint32)
        signed = encoded.view(np.int32)  # two's complement, modulo 2**32
        for start in range(0, self.n_params, _BLOCK_VALUES):
            block = slice(start, min(start + _BLOCK_VALUES, self.n_params))
            scaled = vector[block].astype(np.float64)  # [block]
            scaled *= levels_per_unit
            if draws is None:
                np.rint(scaled, out=scaled)
            else:
                _round_stochastically(scaled, draws[block])
            # |x| = C may land half an ulp above L; the clip below is that ulp's and nothing else's.
            signed[block] = np.clip(scaled, -self.n_levels, self.n_levels, out=scaled)
        encoded[-1] = weight
        encoded &= self.mask
        return encoded

    def with_noise(
        self, encoded: NDArray[np.uint32], noise: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    ) -> NDArray[np.uint32]:
        """Return an encoded vector, uint32 [n_params + 1], whose levels went through ``noise``; the weight stays.

        ``noise`` gets and returns int64 [n_params]. If the sum of all devices' noise stays within ``noise_levels``, the
        sum of the results cannot wrap.

        Raises:
            LocalProtocolError: ``noise`` returned something else (our fault).
        """
        levels = self._signed(encoded[:-1])
        noised = noise(levels)
        if noised.dtype != np.int64 or noised.shape != levels.shape:
            raise LocalProtocolError(f"noise made of int64 {levels.shape} {noised.dtype} {noised.shape}")
        result = encoded.copy()
        result[:-1] = noised.astype(np.uint32)
        return result & self.mask

    def _signed(self, residues: NDArray[np.uint32]) -> NDArray[np.int64]:
        spare = MAX_BITS - self.bits
        return ((residues << np.uint32(spare)).view(np.int32) >> np.int32(spare)).astype(np.int64)

    @property
    def mask(self) -> np.uint32:
        """The low ``bits`` bits."""
        return np.uint32(2**self.bits - 1)

    def decode(self, total: NDArray[np.uint32]) -> WeightedMean:
        """Return the weighted mean that ``total``, a sum of encoded vectors modulo 2**bits, stands for.

        Raises:
            RemoteProtocolError: ``bad-sum``: no weight in it, or a level that no honest cohort can reach (a peer sent
                what no encoder makes; whose it was cannot be known).
        """
        weight, levels = int(total[-1] & self.mask), self._signed(total[:-1])
        if not 1 <= weight <= self.max_cohort * self.weight_cap:
            raise RemoteProtocolError(f"a summed weight of {weight} cannot be", reason="bad-sum")
        if np.abs(levels).max() > self.max_cohort * self.n_levels + self.noise_levels:
            raise RemoteProtocolError("a summed level is beyond what the cohort can reach", reason="bad-sum")
        mean = levels.astype(np.float64) * (self.step * self.weight_cap / weight)  # [n_params]
        return WeightedMean(mean.astype(np.float64, copy=False), weight)


def packed_bytes(n_values: int, bits: int) -> int:
    """Return the length of a packed vector."""
    return -(-n_values * bits // 8)


def pack(values: NDArray[np.uint32], bits: int) -> bytes:
    """Return ``values`` (each below 2**bits) in little-endian bit order, ``bits`` bits each."""
    n_groups = -(-values.size // _LANES)
    packed = bytearray(n_groups * bits + _WORD_BYTES)
    whole = values.size // _LANES
    _pack_groups(values[: whole * _LANES], packed, bits)
    if whole < n_groups:
        last = np.zeros(_LANES, np.uint32)
        last[: values.size - whole * _LANES] = values[whole * _LANES :]
        tail = bytearray(bits + _WORD_BYTES)
        _pack_groups(last, tail, bits)
        packed[whole * bits : whole * bits + bits] = tail[:bits]
    return memoryview(packed)[: packed_bytes(values.size, bits)].tobytes()


def unpack(data: bytes, *, n_values: int, bits: int) -> NDArray[np.uint32]:
    """Return the values in ``data``; uint32 [n_values], each below 2**bits.

    Raises:
        RemoteProtocolError: ``wrong-shape`` or ``bad-encoding`` (the peer's fault).
    """
    if len(data) != packed_bytes(n_values, bits):
        raise RemoteProtocolError(
            f"expected {packed_bytes(n_values, bits)} bytes, got {len(data)}", reason="wrong-shape"
        )
    n_spare = 8 * len(data) - n_values * bits
    if n_spare and data[-1] >> (8 - n_spare):
        raise RemoteProtocolError("the spare bits of a packed vector are not zero", reason="bad-encoding")
    n_groups = -(-n_values // _LANES)
    padded = data.ljust(n_groups * bits + _WORD_BYTES, b"\0")
    values = np.empty(n_groups * _LANES, np.uint32)
    for start in range(0, n_groups, _BLOCK_VALUES // _LANES):
        stop = min(start + _BLOCK_VALUES // _LANES, n_groups)
        for lane, (byte, shift) in enumerate(_starts(bits)):
            words = _words(padded, stop - start, start * bits + byte, bits)
            values[start * _LANES + lane : stop * _LANES : _LANES] = words >> np.uint64(shift)  # the low 32 bits
    values &= np.uint32(2**bits - 1)
    return values[:n_values]


def _pack_groups(values: NDArray[np.uint32], packed: bytearray, bits: int) -> None:
    """Add whole groups of eight values to ``packed``, zeros with a word to spare."""
    apart = -(-_WORD_BYTES // bits)  # so many groups are at least a word, so that no word overlaps the next
    for lane, (byte, shift) in enumerate(_starts(bits)):
        words = _words(packed, values.size // _LANES, byte, bits)
        shifted = values[lane::_LANES].astype(np.uint64) << np.uint64(shift)
        for first in range(apart):
            words[first::apart] |= shifted[first::apart]


def _words(buffer: bytes | bytearray, n: int, offset: int, stride: int) -> NDArray[np.uint64]:
    """Return a view of ``n`` words of eight bytes, ``stride`` bytes apart, from ``offset`` on; uint64 [n]."""
    return np.ndarray((n,), "<u8", buffer, offset, (stride,))


def _starts(bits: int) -> list[tuple[int, int]]:
    """Return for each of the eight values of a group its first byte and the bits below it in that byte."""
    return [divmod(lane * bits, 8) for lane in range(_LANES)]


def _round_stochastically(scaled: NDArray[np.float64], draws: NDArray[np.uint32]) -> None:
    """Round ``scaled`` in place: up with a probability of its fraction (in steps of 2**-32), else down."""
    floor = np.floor(scaled)
    np.add(floor, draws < (scaled - floor) * 2.0**32, out=scaled)
