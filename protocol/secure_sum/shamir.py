"""Shamir's secret sharing (1979, "How to Share a Secret") of 256-bit secrets, vectorised over secrets and shares.

The field is the integers modulo the Mersenne prime 2**31 - 1 (Euler 1772), whose products fit into uint64; a secret is
nine limbs, eight of 29 bits and one of 24, each shared by a polynomial of its own, so that any t - 1 shares say nothing
about it. A share's x is the holder's index + 1.

Laws: exactly ``threshold`` shares open a secret; a wrong share makes a limb too large with a probability of about
1 - 2**-23, and the callers hold every opened secret against a commitment or a public key besides. Not constant-time:
numpy's arithmetic on uint64 is, but the inverse uses Python integers of public x only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secure_sum.masks import keystream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PRIME", "SHARE_BYTES", "combine", "share"]

PRIME: Final = 2**31 - 1
_P: Final = np.uint64(PRIME)
_LIMB_BITS: Final = 29  # below the prime, and nine limbs of them hold 256 bits
_N_LIMBS: Final = 9
_SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 4 * _N_LIMBS


def share(secrets: Sequence[bytes], holders: Sequence[int], *, threshold: int, seed: bytes) -> list[list[bytes]]:
    """Return for each secret one share of ``SHARE_BYTES`` for each holder.

    Args:
        secrets: 32 bytes each.
        holders: distinct indices, 0 or more.
        threshold: shares that open a secret, 1 to ``len(holders)``.
        seed: 32 random bytes, used for nothing else.

    Raises:
        LocalProtocolError: a length, index or threshold is wrong (our fault).
    """
    if not 1 <= threshold <= len(holders) or len(set(holders)) != len(holders) or min(holders) < 0:
        raise LocalProtocolError(f"{threshold} of {len(holders)} distinct holders cannot be")
    if any(len(secret) != _SECRET_BYTES for secret in secrets):
        raise LocalProtocolError(f"a shared secret has {_SECRET_BYTES} bytes")
    limbs = np.array([_to_limbs(secret) for secret in secrets], np.uint64).reshape(-1)  # [n_secrets * 9]
    x = (np.array(holders, np.uint64) + np.uint64(1))[:, None]  # [n_holders, 1]
    values = np.zeros((len(holders), limbs.size), np.uint64)
    for coefficients in _uniform(seed, threshold - 1, limbs.size):  # Horner, highest power first
        values = (values + coefficients) % _P * x % _P  # [n_holders, n_secrets * 9]
    values = (values + limbs) % _P
    cut = values.astype("<u4").reshape(len(holders), len(secrets), _N_LIMBS)
    return [[cut[holder, secret].tobytes() for holder in range(len(holders))] for secret in range(len(secrets))]


def combine(shares: Sequence[Sequence[bytes]], holders: Sequence[int], *, threshold: int) -> list[bytes | None]:
    """Return the secrets of which each of ``holders`` gave a share; None where the shares do not fit each other.

    Args:
        shares: for each secret the shares in the order of ``holders``; more than ``threshold`` are ignored.
        holders: distinct indices.
        threshold: as it was when sharing.

    Raises:
        RemoteProtocolError: ``too-few-shares`` or ``bad-shares``: fewer than ``threshold``, or not of ``SHARE_BYTES``.
    """
    chosen = list(holders)[:threshold]
    if len(chosen) < threshold or any(len(one) < threshold for one in shares):
        raise RemoteProtocolError(f"{len(chosen)} shares, {threshold} are needed", reason="too-few-shares")
    if any(len(part) != SHARE_BYTES for one in shares for part in one[:threshold]) or len(set(chosen)) != threshold:
        raise RemoteProtocolError(f"a share has {SHARE_BYTES} bytes and a holder of its own", reason="bad-shares")
    joined = b"".join(part for one in shares for part in one[:threshold])
    values = np.frombuffer(joined, "<u4").astype(np.uint64).reshape(len(shares), threshold, _N_LIMBS)
    if values.size and int(values.max()) >= PRIME:
        raise RemoteProtocolError("a share is no element of the field", reason="bad-shares")
    weights = _weights_at_zero(chosen)  # [threshold]
    limbs = (values * weights[:, None] % _P).sum(axis=1) % _P  # [n_secrets, 9]; a sum of 2**33 terms would still fit
    return [_from_limbs(row) for row in limbs.tolist()]


def _weights_at_zero(holders: Sequence[int]) -> NDArray[np.uint64]:
    """Return Lagrange's weights at 0: the product over j != i of x_j / (x_j - x_i); uint64 [t]."""
    x = np.array(holders, np.uint64) + np.uint64(1)  # [t]
    differences = (x[None, :] + _P - x[:, None]) % _P  # [t, t], x_j - x_i
    np.fill_diagonal(differences, 1)
    numerators = np.broadcast_to(x, differences.shape).copy()  # [t, t]
    np.fill_diagonal(numerators, 1)
    over, under = _products(numerators), _products(differences)  # [t]
    inverse = np.array([pow(int(one), -1, PRIME) for one in under], np.uint64)
    weights: NDArray[np.uint64] = over * inverse % _P
    return weights


def _products(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the product of each row modulo the prime, by halves: log2(t) passes."""
    while rows.shape[1] > 1:
        if rows.shape[1] % 2:
            rows = np.concatenate([rows, np.ones((rows.shape[0], 1), np.uint64)], axis=1)
        rows = rows[:, ::2] * rows[:, 1::2] % _P
    return np.asarray(rows.reshape(-1), np.uint64)  # [t, 1] to [t]


def _uniform(seed: bytes, n_rows: int, n_columns: int) -> NDArray[np.uint64]:
    """Return uniform field elements; uint64 [n_rows, n_columns], by rejection of the one 31-bit value that is none."""
    need = n_rows * n_columns
    draws = keystream(seed, need + 64) >> np.uint32(1)  # 31 bits each
    kept = draws[draws != PRIME][:need]  # one in 2**31 falls out, 64 of them never do (below 2**-1000)
    return np.asarray(kept, np.uint64).reshape(n_rows, n_columns)


def _to_limbs(secret: bytes) -> list[int]:
    whole = int.from_bytes(secret, "little")
    return [whole >> (_LIMB_BITS * i) & (2**_LIMB_BITS - 1) for i in range(_N_LIMBS)]


def _from_limbs(limbs: list[int]) -> bytes | None:
    whole = sum(limb << (_LIMB_BITS * i) for i, limb in enumerate(limbs))
    if max(limbs) >= 2**_LIMB_BITS or whole >= 2 ** (8 * _SECRET_BYTES):
        return None
    return whole.to_bytes(_SECRET_BYTES, "little")
