"""The sum is exact for every pattern of drop-outs up to the threshold, and there is none beyond it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secure_sum import graph
from tests.protocol.secure_sum.parties import STEPS, Parties, name_of, plan_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN = plan_for(n_params=3)


def patterns(n: int, most: int) -> Iterator[dict[str, list[int]]]:
    """Yield every choice of at most ``most`` devices and of the step from which each is silent."""
    for size in range(most + 1):
        for gone in combinations(range(n), size):
            for steps in product(STEPS, repeat=size):
                yield {step: [i for i, at in zip(gone, steps, strict=True) if at == step] for step in set(steps)}


def is_enough(n: int, drops: dict[str, list[int]]) -> bool:
    """Return whether the complete graph of those who advertised leaves enough devices to the end."""
    n_roster = n - len(drops.get("adverts", ()))
    if n_roster < graph.MIN_COHORT:
        return False
    spec = graph.choose(
        n_roster,
        corrupt_fraction=PLAN.corrupt_fraction,
        dropout_fraction=PLAN.dropout_fraction,
        server=PLAN.server,
    )
    return n - sum(map(len, drops.values())) >= spec.threshold


def check(run: Parties, *, is_done: bool) -> None:
    run.run_until()
    if not is_done:
        assert run.server.step == "aborted"
        assert run.server.abort_reason in {"too-few-devices", "too-few-shares"}
        assert run.server._total is None
        return
    assert run.server.step == "done", run.server.abort_reason
    late = {name_of(i) for step in STEPS[:3] for i in run.drops.get(step, ())}
    assert set(run.server.survivors()) == set(run.parties) - late
    np.testing.assert_array_equal(run.server.total(), run.expected(run.server.survivors()))


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_pattern_up_to_the_threshold_gives_the_exact_sum_and_beyond_it_none(n: int) -> None:
    most = {3: 2, 4: 2, 5: 2, 6: 2}[n]
    seen = Counter[bool]()
    for drops in patterns(n, most):
        is_done = is_enough(n, drops)
        seen[is_done] += 1
        check(Parties(PLAN, n, drops), is_done=is_done)
    assert seen[True] > 5 * (n - 1)
    assert seen[False] > 0 or n > 4


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("n", [5, 6])
def test_one_drop_out_too_many_at_any_step_ends_the_sum(n: int, step: str) -> None:
    gone = {5: 3, 6: 3 if step != "adverts" else 4}[n]
    check(Parties(PLAN, n, {step: range(gone)}), is_done=False)


@settings(max_examples=4)
@given(st.data())
@pytest.mark.parametrize(("n", "most"), [(20, 7), (50, 5)])
def test_random_patterns_in_larger_cohorts_give_the_exact_sum(n: int, most: int, data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=most, max_size=most))
    at = [data.draw(st.sampled_from(STEPS[1:])) for _ in gone]
    drops = {step: [i for i, when in zip(gone, at, strict=True) if when == step] for step in set(at)}
    check(Parties(PLAN, n, drops), is_done=True)


def test_the_weighted_mean_is_the_float64_mean_up_to_the_stated_quantisation() -> None:
    run = Parties(plan_for(n_params=400), 12, {"inputs": [2], "consents": [5]})
    run.run_until()
    result = run.server.result()
    there = [run.parties[name] for name in run.server.survivors()]
    weights = np.array([party.weight for party in there])
    exact = (np.array([party.vector for party in there], np.float64) * weights[:, None]).sum(0) / weights.sum()
    assert result.weight == weights.sum()
    from protocol.secure_sum.roster import quantiser_of

    bound = quantiser_of(run.plan).error_bound(n=len(there), weight=result.weight)
    assert np.abs(result.mean - exact).max() <= bound


@pytest.mark.parametrize("server", ["curious", "lying"])
def test_a_sparse_graph_gives_the_exact_sum_too(server: str) -> None:
    run = Parties(plan_for(n_params=3, server=server), 40, {"shares": [1], "inputs": [7, 30], "unmasking": [12]})
    run.run_until()
    assert run.server.setting.spec.k < 39
    np.testing.assert_array_equal(run.server.total(), run.expected(run.server.survivors()))


@pytest.mark.parametrize("drops", [{}, {"shares": [1], "inputs": [4], "unmasking": [0]}])
def test_every_party_restarted_at_every_step_sends_the_same_bytes(drops: dict[str, list[int]]) -> None:
    plain, restarted = Parties(PLAN, 8, drops), Parties(PLAN, 8, drops, restart=True)
    plain.run_until()
    restarted.run_until()
    assert plain.server.step == "done"
    assert plain.sent == restarted.sent
    np.testing.assert_array_equal(plain.server.total(), restarted.server.total())


def test_the_server_holds_one_vector_whatever_the_cohort() -> None:
    run = Parties(plan_for(n_params=2000), 6)
    run.run_until("consents")
    small = len(run.server.pack())
    assert small < 4 * 2001 + 6 * 600
    masked = {name: run.sent["inputs", name] for name in run.parties}
    stored = run.server.pack()
    assert not [name for name, data in masked.items() if data[20:220] in stored]
