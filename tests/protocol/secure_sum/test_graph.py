from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.secure_sum import graph
from tests.protocol.secure_sum.parties import seed

SIZES = (3, 4, 5, 10, 32, 50, 100, 200, 500, 1000)


def tail(population: int, marked: int, draws: int, above: int) -> Fraction:
    """Return P[more than ``above`` of ``draws`` are marked], as a textbook writes it."""
    ways = sum(
        math.comb(marked, i) * math.comb(population - marked, draws - i)
        for i in range(above + 1, min(marked, draws) + 1)
    )
    return Fraction(ways, math.comb(population, draws))


@given(st.integers(3, 80), st.integers(1, 40), st.integers(0, 1000))
def test_being_neighbours_is_mutual_and_everyone_has_k(n: int, half: int, salt: int) -> None:
    k = min(2 * half, n - 1)
    k -= k % 2 if k != n - 1 else 0
    if k == 0:
        return
    one = graph.Graph(n, k, seed(salt))
    near = {i: set(one.neighbours(i)) for i in range(n)}
    for i, others in near.items():
        assert len(others) == k
        assert i not in others
        assert all(i in near[other] for other in others)
        assert one.holders(i) == tuple(sorted(others | {i}))


def test_the_order_is_golden_and_depends_on_the_seed() -> None:
    assert graph.Graph(10, 4, bytes(32)).neighbours(0) == (3, 4, 7, 9)
    assert graph.Graph(10, 4, seed(1)).neighbours(0) != graph.Graph(10, 4, bytes(32)).neighbours(0)


@pytest.mark.parametrize("server", ["curious", "lying"])
@pytest.mark.parametrize("n", SIZES)
def test_the_chosen_parameters_withstand_what_they_say(n: int, server: graph.ServerModel) -> None:
    spec = graph.choose(n, corrupt_fraction=0.05, dropout_fraction=0.1, server=server)
    assert 2 <= spec.threshold <= spec.k + 1 - spec.n_dropped * (spec.k == n - 1)
    if spec.k == n - 1:
        assert spec.n_corrupt < spec.threshold
        assert spec.security_bits == spec.correctness_bits == math.inf
        return
    # How many corrupt neighbours the threshold can bear, from its definition.
    bearable = spec.threshold - 1 if server == "curious" else spec.threshold - spec.k // 2 - 2
    assert n * tail(n - 1, spec.n_corrupt, spec.k, bearable) <= Fraction(1, 2**graph.SECURITY_BITS)
    lost = n * tail(n - 1, spec.n_dropped, spec.k, spec.k - spec.threshold)
    assert lost <= Fraction(1, 2**graph.CORRECTNESS_BITS)


@pytest.mark.parametrize("n", SIZES)
def test_against_a_lying_server_two_sets_of_holders_share_an_honest_one(n: int) -> None:
    spec = graph.choose(n, corrupt_fraction=0.05, dropout_fraction=0.1, server="lying")
    corrupt = spec.n_corrupt if spec.k == n - 1 else spec.threshold - spec.k // 2 - 2
    assert 2 * spec.threshold > (spec.k + 1) + min(corrupt, spec.n_corrupt)


@pytest.mark.parametrize(("n", "k"), [(12, 4), (14, 6)])
def test_an_arc_of_the_ring_has_an_end_with_too_few_holders_left(n: int, k: int) -> None:
    """The bound of the lying server, by brute force over every honest set that a cut separates from the rest."""
    one, threshold = graph.Graph(n, k, seed("arc")), k // 2 + 2
    near = {i: set(one.neighbours(i)) for i in range(n)}
    for size in range(1, n // 2):
        for arc in combinations(range(n), size):
            cut = set().union(*(near[i] for i in arc)) - set(arc)  # whose masks must go, so who do not answer
            if len(arc) + len(cut) < n:
                assert any(len((near[i] | {i}) - cut) < threshold for i in arc)


@pytest.mark.parametrize("n", [0, 1, 2, 1001])
def test_cohorts_under_three_and_over_a_thousand_are_refused(n: int) -> None:
    with pytest.raises(ConfigError, match="needs 3 to 1000 devices"):
        graph.choose(n, corrupt_fraction=0, dropout_fraction=0, server="lying")


def test_fractions_that_no_threshold_withstands_are_refused() -> None:
    with pytest.raises(ConfigError, match="shares are needed"):
        graph.choose(10, corrupt_fraction=0.5, dropout_fraction=0.5, server="lying")


def test_the_parameters_say_their_probabilities() -> None:
    said = graph.choose(500, corrupt_fraction=0.05, dropout_fraction=0.1, server="lying").describe()
    assert "500 devices, ring of 106 neighbours" in said
    assert "fails with probability 2^-4" in said
    assert "fails with probability 2^-2" in said
