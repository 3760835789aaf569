"""Who masks with whom: a k-regular ring over a public random order, and the threshold t that goes with k.

Source: Bell et al. 2020 (ePrint 2020/704), the protocol against a semi-honest server: Harary graph over a random
permutation; k and t such that nobody has too many corrupt neighbours, the graph of the honest survivors is connected,
and enough of everybody's neighbours survive, the tails hypergeometric. Departures:
- a device keeps a share of its own secrets too (as in Bonawitz et al. 2017), so a secret has k + 1 *holders*;
- where no sparse graph meets the bounds, the complete graph is taken, whose guarantees are exact and not probable;
- against a ``lying`` server t is at least k/2 + 2 + (corrupted neighbours), which keeps any arc of the ring from being
  summed alone (argument in docs/secure-sum.md). The paper's protocol against a malicious server has every device choose
  neighbours itself, among keys that the server committed to.

Laws: everyone computes the same graph from the same seed; all probabilities are exact integer ratios (no floating-point
tails) summed over all n devices (union bound); an order is drawn from 64-bit keys, so its bias is below n**2 / 2**64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CORRECTNESS_BITS",
    "MAX_COHORT",
    "MIN_COHORT",
    "SECURITY_BITS",
    "Graph",
    "GraphSpec",
    "ServerModel",
    "choose",
]

MIN_COHORT: Final = 3  # a sum of two tells each of the two the other's vector
MAX_COHORT: Final = 1000  # the roster's names fit into one message's MAX_ITEMS; issue 4 asks for 3 to 1,000
SECURITY_BITS: Final = 40  # a bad graph at most once in 2**40 rounds; so in the authors' code (federated-compute)
SMALL_COHORT: Final = 32  # below it the complete graph costs little and its guarantees are exact
CORRECTNESS_BITS: Final = 20  # a round lost to an unlucky graph at most once in 2**20; likewise
_SEED_BYTES: Final = 32

ServerModel: TypeAlias = Literal["curious", "lying"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """The parameters of one sum and what they withstand.

    Attributes:
        n: devices in the roster.
        k: neighbours of each device; n - 1 is the complete graph.
        threshold: shares that open a secret, of ``k + 1``.
        min_survivors: fewer masked inputs than this are never unmasked.
        n_corrupt: devices that may work with the server, at most.
        n_dropped: devices that may drop out, at most, with the stated correctness.
        security_bits: -log2 of the probability that the graph is bad for some device; infinite: cannot be.
        correctness_bits: -log2 of the probability that ``n_dropped`` drop-outs leave some secret with too few holders.
    """

    n: int
    k: int
    threshold: int
    min_survivors: int
    n_corrupt: int
    n_dropped: int
    security_bits: float
    correctness_bits: float

    def describe(self) -> str:
        """Return one line for a person."""
        shape = "complete graph" if self.k == self.n - 1 else f"ring of {self.k} neighbours"
        return (
            f"{self.n} devices, {shape}, {self.threshold} of {self.k + 1} shares; up to {self.n_corrupt} corrupt: "
            f"fails with {_probability(self.security_bits)}; up to {self.n_dropped} drop out: "
            f"fails with {_probability(self.correctness_bits)}"
        )


@dataclass(frozen=True)
class Graph:
    """Neighbours of each index 0..n-1; needs 16 bytes an index."""

    n: int
    k: int
    seed: bytes

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        stream = Cipher(algorithms.ChaCha20(self.seed, bytes(16)), mode=None).encryptor().update(bytes(8 * self.n))
        return np.argsort(np.frombuffer(stream, "<u8"), kind="stable")  # [n], the index at each place of the ring

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        return np.argsort(self._order, kind="stable")  # [n], the inverse permutation

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Return the k neighbours of ``index``, ascending; being neighbours is mutual."""
        if self.k == self.n - 1:
            return tuple(other for other in range(self.n) if other != index)
        half = self.k // 2
        steps = np.array([*range(-half, 0), *range(1, half + 1)])  # [k]
        places = (self._place[index] + steps) % self.n  # [k]
        return tuple(sorted(self._order[places].tolist()))

    def holders(self, index: int) -> tuple[int, ...]:
        """Return who holds a share of the secrets of ``index``: its neighbours and itself, ascending."""
        return tuple(sorted((*self.neighbours(index), index)))


@lru_cache(maxsize=256)
def choose(n: int, *, corrupt_fraction: float, dropout_fraction: float, server: ServerModel) -> GraphSpec:
    """Return the sparsest graph found that withstands the stated fractions (of n, rounded down).

    Raises:
        ConfigError: fewer than ``MIN_COHORT`` or more than ``MAX_COHORT`` devices, or no threshold withstands both
            fractions (the operator's fault).
    """
    if not MIN_COHORT <= n <= MAX_COHORT:
        raise ConfigError(f"a secure sum needs {MIN_COHORT} to {MAX_COHORT} devices, got {n}")
    if not (0 <= corrupt_fraction < 1 and 0 <= dropout_fraction < 1):
        raise ConfigError("corrupt_fraction and dropout_fraction must lie in [0, 1)")
    n_corrupt, n_dropped = int(n * corrupt_fraction), int(n * dropout_fraction)
    low, high = 1, (n - 2) // 2  # half of k
    sparse = _sparse(n, 2 * high, n_corrupt, n_dropped, server) if n >= SMALL_COHORT else None
    if sparse is None:
        return _complete(n, n_corrupt, n_dropped, server)
    while low < high:  # feasible at high; not strictly monotone, so "sparsest found", and whatever is found was checked
        middle = (low + high) // 2
        found = _sparse(n, 2 * middle, n_corrupt, n_dropped, server)
        low, high, sparse = (middle + 1, high, sparse) if found is None else (low, middle, found)
    return sparse


def _complete(n: int, n_corrupt: int, n_dropped: int, server: ServerModel) -> GraphSpec:
    """Return the complete graph's parameters: 2t > n + c, so two sets of t holders share an honest one."""
    majority = (n + n_corrupt) // 2 + 1 if server == "lying" else n // 2 + 1
    threshold = max(majority, n_corrupt + 1, 2)
    if threshold > n - n_dropped:
        raise ConfigError(
            f"{n} devices with {n_corrupt} corrupt and {n_dropped} dropped out: {threshold} shares are needed and "
            f"{n - n_dropped} would remain; lower a fraction or take more devices"
        )
    return GraphSpec(
        n=n,
        k=n - 1,
        threshold=threshold,
        min_survivors=threshold,
        n_corrupt=n_corrupt,
        n_dropped=n_dropped,
        security_bits=math.inf,
        correctness_bits=math.inf,
    )


def _sparse(n: int, k: int, n_corrupt: int, n_dropped: int, server: ServerModel) -> GraphSpec | None:
    """Return the parameters of degree ``k``, or None if the two tails leave no threshold between them."""
    most_corrupt, security = _smallest_bound(n, n_corrupt, k, SECURITY_BITS)
    most_dropped, correctness = _smallest_bound(n, n_dropped, k, CORRECTNESS_BITS)
    if server == "lying":
        least = k // 2 + 2 + most_corrupt
    else:
        least = max(most_corrupt + 1, 2)
        security = min(security, _arc_bits(n, n_corrupt + n_dropped, k // 2))
    most = k - most_dropped  # a device that dropped out has lost its own share too: count on k holders, not k + 1
    if least > most or security < SECURITY_BITS:
        return None
    threshold = (least + most) // 2  # what slack there is goes half to either side
    return GraphSpec(
        n=n,
        k=k,
        threshold=threshold,
        min_survivors=max(threshold, n - n_dropped),
        n_corrupt=n_corrupt,
        n_dropped=n_dropped,
        security_bits=security,
        correctness_bits=correctness,
    )


def _smallest_bound(n: int, n_marked: int, k: int, bits: int) -> tuple[int, float]:
    """Return the least c with n * P[more than c of a device's k neighbours are marked] <= 2**-bits, and the bits met.

    The neighbours are k draws without replacement from the n - 1 others: an exact hypergeometric tail.
    """
    total, tail = math.comb(n - 1, k), 0
    c = min(k, n_marked)
    while c > 0:
        more = tail + math.comb(n_marked, c) * math.comb(n - 1 - n_marked, k - c)
        if (n * more) << bits > total:
            break
        tail, c = more, c - 1
    return c, _bits(n * tail, total)


def _arc_bits(n: int, n_removed: int, length: int) -> float:
    """Return -log2 of the bound that ``length`` successive places of the ring are all removed somewhere."""
    if n_removed < length:
        return math.inf
    return _bits(n * math.comb(n - length, n_removed - length), math.comb(n, n_removed))


def _bits(part: int, whole: int) -> float:
    """Return -log2(part / whole) of integers that may be beyond a float's range."""
    return math.inf if part == 0 else math.log2(whole) - math.log2(part)


def _probability(bits: float) -> str:
    return "probability 0" if math.isinf(bits) else f"probability 2^-{bits:.1f}"
