"""Exact samples of the discrete Gaussian N_Z(0, sigma^2) from a secret seed: whole vectors at a time.

Laws: every decision is exact, so that no rounding of floating-point numbers shows in the noise (Mironov 2012,
doi:10.1145/2382196.2382264); one seed gives the same noise on every machine. Both come from one device: a coin of
probability exp(-gamma) compares 64 secret bits with a double that is known to be right within ``_MARGIN``, and whatever
is closer than that is decided in exact arithmetic.

Source:
    Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, arXiv:2004.00010, Algorithms 1 to 3.
    Departure: Algorithm 1 (a coin of probability exp(-gamma)) is replaced by the comparison above, which vectorises.
Time: about 0.4 s for a million values on one core. Memory: some vectors of 1.1 times the asked length.
"""

from __future__ import annotations

import decimal
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["SEED_BYTES", "SecretStream", "discrete_gaussian"]

SEED_BYTES: Final = 32

# Relative error of the double exp(-gamma): a few units of 2^-53 for exp itself (numpy: below 4) and gamma's own
# absolute error, 2^-51 of |y| / sigma; a thousand times more is allowed for, and still only one coin in 10^12 needs
# Decimals.
_MARGIN: Final = 1e-12
_DIGITS: Final = 90  # of exact decisions; 64 + 128 bits are 58 digits
_CHUNK: Final = 1 << 16  # values at a time: stays in a core's cache


class SecretStream:
    """Uniform bits that nobody can tell from chance without the seed: the key stream of ChaCha20 (RFC 8439)."""

    __slots__ = ("_bits", "_spare")

    def __init__(self, seed: bytes) -> None:
        """Begin at the start of the seed's stream.

        Raises:
            ValueError: not ``SEED_BYTES`` bytes (the caller's fault).
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
        self._bits, self._spare = (
            Cipher(algorithms.ChaCha20(seed, bytes(8) + label.ljust(8)), mode=None).encryptor()
            for label in (b"bits", b"spare")
        )

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "SecretStream(...)"

    def words(self, n: int) -> NDArray[np.uint64]:
        """Return the next ``n`` words of 64 bits."""
        return np.frombuffer(self._bits.update(bytes(8 * n)), "<u8").astype(np.uint64)

    def spare_bits(self, n_bytes: int) -> int:
        """Return bits beside the stream, for decisions that 64 bits leave open."""
        return int.from_bytes(self._spare.update(bytes(n_bytes)), "big")

    def below(self, bound: int, n: int) -> NDArray[np.int64]:
        """Return ``n`` uniform integers in [0, bound), bound at most 2^62, by rejection."""
        mask = np.uint64((1 << max(1, (bound - 1).bit_length())) - 1)
        kept: list[NDArray[np.int64]] = []
        left = n
        while left > 0:
            drawn = (self.words(left + left // 8 + 8) & mask).astype(np.int64)
            good = drawn[drawn < bound][:left]
            kept.append(good)
            left -= len(good)
        return np.concatenate(kept) if kept else np.empty(0, np.int64)


def discrete_gaussian(sigma: int, n: int, stream: SecretStream) -> NDArray[np.int64]:
    """Return ``n`` independent samples of N_Z(0, sigma^2), int64 [n].

    Raises:
        ValueError: ``sigma`` is not in [1, 2^45], where sums of samples stay exact (the caller's fault).
    """
    if not 1 <= sigma <= 1 << 45:
        raise ValueError(f"sigma is {sigma}, expected 1 to 2^45")
    made: list[NDArray[np.int64]] = []
    left = n
    while left > 0:
        found = _accepted(sigma, min(2 * left + 16, _CHUNK), stream)[:left]
        made.append(found)
        left -= len(found)
    return np.concatenate(made) if made else np.empty(0, np.int64)


def _accepted(sigma: int, n: int, stream: SecretStream) -> NDArray[np.int64]:
    """Algorithm 3: of ``n`` candidates from a discrete Laplace those that a coin lets through."""
    t = sigma + 1  # "t <- floor(sigma) + 1"
    y = _discrete_laplace(t, n, stream)
    # C is a coin of probability exp(-(|Y| - sigma^2 / t)^2 / 2 sigma^2).
    x = (np.abs(y).astype(np.float64) - sigma * (sigma / t)) / sigma

    def exact(i: int) -> tuple[int, int]:
        return (abs(int(y[i])) * t - sigma**2) ** 2, 2 * sigma**2 * t**2

    accepted: NDArray[np.int64] = y[_coins(x * x / 2, exact, stream)]
    return accepted


def _discrete_laplace(t: int, n: int, stream: SecretStream) -> NDArray[np.int64]:
    """Algorithm 2 with s = 1: at most ``n`` samples with P(x) proportional to exp(-|x| / t)."""
    u = stream.below(t, n)
    u = u[_coins(u / t, lambda i: (int(u[i]), t), stream)]  # "Sample D <- Bernoulli(exp(-U/t)); reject if 0"
    v = np.zeros(len(u), np.int64)
    alive = np.arange(len(u))
    while len(alive):  # "Sample A <- Bernoulli(exp(-1)) ... V <- V + 1"
        alive = alive[_coins(np.ones(len(alive)), lambda _i: (1, 1), stream)]
        v[alive] += 1
    x = u + t * v
    is_negative = (stream.words(len(x)) & np.uint64(1)).astype(bool)
    keep = ~(is_negative & (x == 0))  # "If B = 1 and Y = 0, reject"
    signed: NDArray[np.int64] = np.where(is_negative, -x, x)[keep]
    return signed


def _coins(
    gamma: NDArray[np.float64], exact: Callable[[int], tuple[int, int]], stream: SecretStream
) -> NDArray[np.bool_]:
    """Return a coin of probability exp(-gamma_i) each; ``exact(i)`` gives gamma_i's numerator and denominator."""
    bits = stream.words(len(gamma))
    p = np.exp(-gamma)
    u = bits * 2.0**-64
    coins: NDArray[np.bool_] = u < p
    for i in np.flatnonzero(np.abs(u - p) <= _MARGIN * (1 + np.sqrt(gamma)) * p + 2.0**-62):
        coins[i] = _exact_coin(int(bits[i]), *exact(int(i)), stream)
    return coins


def _exact_coin(bits: int, numerator: int, denominator: int, stream: SecretStream) -> bool:
    with decimal.localcontext() as context:
        context.prec = _DIGITS
        scaled = (-decimal.Decimal(numerator) / decimal.Decimal(denominator)).exp() * 2**64
        whole = int(scaled)
        if bits != whole:
            return bits < whole
        # The first 64 bits are equal: 128 more decide, which leaves an error of 2^-128 in one coin of 2^64.
        return stream.spare_bits(16) < int((scaled - whole) * 2**128)
