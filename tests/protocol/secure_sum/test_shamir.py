from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secure_sum import shamir
from tests.protocol.secure_sum.parties import seed


def evaluate(shares: list[tuple[int, int]]) -> int:
    """Return the polynomial through (x, y) at zero, with Python's integers."""
    total = 0
    for x, y in shares:
        term = y
        for other, _ in shares:
            if other != x:
                term = term * other * pow(other - x, -1, shamir.PRIME) % shamir.PRIME
        total += term
    return total % shamir.PRIME


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 5))
def test_any_threshold_of_the_shares_opens_every_secret(secrets: list[bytes], threshold: int, extra: int) -> None:
    holders = list(range(0, 3 * (threshold + extra), 3))
    shares = shamir.share(secrets, holders, threshold=threshold, seed=seed("any"))
    order = np.random.default_rng(threshold).permutation(len(holders))[:threshold].tolist()
    chosen = [[one[i] for i in order] for one in shares]
    assert shamir.combine(chosen, [holders[i] for i in order], threshold=threshold) == secrets


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_extreme_secrets_open_from_every_choice(secret: bytes) -> None:
    (shares,) = shamir.share([secret], range(5), threshold=3, seed=seed("extreme"))
    for chosen in combinations(range(5), 3):
        assert shamir.combine([[shares[i] for i in chosen]], chosen, threshold=3) == [secret]


def test_a_share_lies_on_a_polynomial_whose_value_at_zero_is_the_limb() -> None:
    secret = bytes(range(32))
    (shares,) = shamir.share([secret], [0, 4, 9], threshold=3, seed=seed("limb"))
    first_limbs = [int.from_bytes(one[:4], "little") for one in shares]
    assert evaluate(list(zip((1, 5, 10), first_limbs, strict=True))) == int.from_bytes(secret, "little") % 2**29


def test_on_a_small_field_all_but_one_share_say_nothing_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of shares of threshold 3 over 7 elements comes up exactly once for every secret."""
    small = 7
    monkeypatch.setattr(shamir, "_P", np.uint64(small))
    coefficients = np.array(list(product(range(small), repeat=2)), np.uint64)  # [49, 2]
    monkeypatch.setattr(shamir, "_uniform", lambda *_: np.repeat(coefficients, 9, axis=0).T)  # [2, 49 * 9]
    for secret in range(small):
        all_shares = shamir.share([bytes([secret]) + bytes(31)] * 49, [0, 3], threshold=2, seed=b"")  # 2 of 3 needed
        pairs = Counter((one[0][:4], one[1][:4]) for one in all_shares)
        assert len(pairs) == small**2
        assert set(pairs.values()) == {1}


def test_too_few_doubled_or_misshapen_shares_are_refused() -> None:
    (shares,) = shamir.share([seed("secret")], range(4), threshold=3, seed=seed("few"))
    for chosen, holders, reason in (
        (shares[:2], [0, 1], "too-few-shares"),
        ([*shares[:2], shares[1]], [0, 1, 1], "bad-shares"),
        ([*shares[:2], shares[2][:-1]], [0, 1, 2], "bad-shares"),
        ([*shares[:2], b"\xff" * 36], [0, 1, 2], "bad-shares"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            shamir.combine([chosen], holders, threshold=3)
        assert caught.value.reason == reason


def test_a_wrong_share_opens_nothing() -> None:
    secrets = [seed("wrong", i) for i in range(200)]
    shares = shamir.share(secrets, range(3), threshold=3, seed=seed("wrong"))
    for one in shares:
        one[1] = one[1][:4] + bytes([one[1][4] ^ 1]) + one[1][5:]
    assert not set(shamir.combine(shares, range(3), threshold=3)) & set(secrets)


@pytest.mark.parametrize(("threshold", "holders"), [(0, [1]), (3, [1, 2]), (2, [1, 1]), (1, [-1])])
def test_a_caller_who_asks_for_the_impossible_is_told(threshold: int, holders: list[int]) -> None:
    with pytest.raises(LocalProtocolError):
        shamir.share([bytes(32)], holders, threshold=threshold, seed=seed(0))
