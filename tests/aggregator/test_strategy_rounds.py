"""Strategies in whole rounds: killed at every effect, they end with the same bytes, and the history folds again.

Devices send what their terms allow, an update of another size is refused, and a task goes on only with the options that
it was begun with.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.core.strategies import STRATEGIES
from aggregator.gate_settings import GateSettings
from aggregator.setup import open_task
from aggregator.task_runner import TaskRunner
from aggregator.verification import verify_task
from edge_agent.trainer.local_terms import n_work_values
from protocol import codec
from protocol.errors import ConfigError
from protocol.messages import Announce, Work
from protocol.plan import Codec, DeviceTerms, Optimizer, Plan, SampleDp
from protocol.selection import n_update_values
from tests.aggregator.core.strategies.lora_fleet import LAYOUT, effect
from tests.aggregator.workbench import FLEET, N_PARAMS, TASK, Bench, Device, KilledError, evaluation_sets, make_bundle

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Plan(codec=Codec(name="float32"))
SGD = Plan(codec=Codec(name="float32"), optimizer=Optimizer(name="sgd", beta1=0.0))
TASKS: dict[str, dict[str, Any]] = {
    "fedavgm": {"plan": PLAIN},
    "fedadam": {"plan": PLAIN},
    "scaffold": {"plan": SGD, "strategy_options": {"n_devices": 2}},
    "fedit": {"plan": PLAIN},
    "ffa-lora": {"plan": PLAIN},
    "rolora": {"plan": PLAIN},
    "fedsa-lora": {"plan": PLAIN},
    "hetlora": {"plan": PLAIN, "strategy_options": {"ranks": {"a": 1}}},
    "flexlora": {"plan": PLAIN, "strategy_options": {"ranks": {"a": 1}}},
    "multi-krum": {"plan": PLAIN},
    "flora": {"plan": PLAIN, "strategy_options": {"ranks": {"a": 1}}},
    "fedex-lora": {"plan": PLAIN},
}


def bench_for(folder: Path, strategy: str, **changes: Any) -> Bench:
    folder.mkdir()
    make_bundle(folder / "bundle", layout=LAYOUT, has_open_base=STRATEGIES[strategy].needs.open_base)
    return Bench(folder, strategy=strategy, **{"rounds": 3, **TASKS[strategy], **changes})


def take_part(device: Device) -> None:
    """Join the open round, answer its work with as many values as the terms ask for, and again until receipted."""
    announces = device.all(Announce)
    if not announces or announces[-1].state == "finished":
        return
    works = [work for work in device.all(Work) if work.round == announces[-1].round]
    if not works:
        device.join(announces[-1].round)
        return
    work = works[-1]
    n_values = n_update_values(LAYOUT, work.plan.terms)
    rng = np.random.default_rng([work.round, *device.name.encode()])
    device.update(work=work, delta=rng.normal(0, 0.05, n_values).astype(np.float32))


def play(bench: Bench, devices: list[Device]) -> None:
    for _ in range(120):
        if bench.runner.is_finished:
            return
        for device in devices:
            take_part(device)
            try:
                bench.settle()
            except KilledError:
                bench.hooks.before = lambda _name: None
                bench.restart()
    pytest.fail("the task did not finish")


def states(bench: Bench) -> list[dict[str, str]]:
    """The digests of every vector of every version's state."""
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good
    return [dict(record.state) for record in bench.store.versions(TASK)]


@pytest.mark.parametrize("strategy", TASKS)
def test_killed_in_the_middle_of_a_fold_a_strategy_ends_with_the_same_state(strategy: str, tmp_path: Path) -> None:
    undisturbed = bench_for(tmp_path / "undisturbed", strategy)
    play(undisturbed, [undisturbed.device("a"), undisturbed.device("b")])
    expected = states(undisturbed)
    assert len(expected) == 4
    for doing, nth in (("fold", 2), ("put", 4), ("start_closing", 1)):
        bench = bench_for(tmp_path / doing, strategy)
        left = {doing: nth}

        def kill(name: str, left: dict[str, int] = left) -> None:
            left[name] = left.get(name, 0) - 1
            if left[name] == 0:
                raise KilledError

        bench.hooks.before = kill
        play(bench, [bench.device("a"), bench.device("b")])
        assert left[doing] <= 0  # it was killed
        assert states(bench) == expected


def test_rolora_alternates_and_each_update_holds_one_factor(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", "rolora")
    a, b = bench.device("a"), bench.device("b")
    play(bench, [a, b])
    frozen = {work.round: work.plan.terms for work in a.all(Work)}
    assert frozen == {
        1: DeviceTerms(frozen_roles=("lora_A",)),
        2: DeviceTerms(frozen_roles=("lora_B",)),
        3: DeviceTerms(frozen_roles=("lora_A",)),
    }
    adapters = [bench.runner.versions.adapter(version) for version in range(4)]
    for before, after, role in zip(adapters, adapters[1:], ("lora_A", "lora_B", "lora_A"), strict=False):
        for slot in LAYOUT.tensors:
            here = slice(slot.offset, slot.offset + slot.n_values)
            assert np.array_equal(before[here], after[here]) == (slot.role == role)


def test_an_update_of_another_size_than_the_terms_say_is_refused(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", "ffa-lora")
    device = bench.device("a")
    device.join()
    bench.settle()
    n_sent = n_update_values(LAYOUT, device.last(Work).plan.terms)
    device.update(delta=np.zeros(n_sent + 1, np.float32))
    bench.settle()
    assert device.receipts() == [("refused", "wrong-shape")]


def test_devices_of_different_ranks_get_their_own_terms(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", "hetlora")
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        device.join()
        bench.settle()
    assert a.last(Work).plan.terms == DeviceTerms(lora_rank=1)
    assert b.last(Work).plan.terms == DeviceTerms()


def test_scaffold_sends_its_control_behind_the_adapter(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", "scaffold")
    a, b = bench.device("a"), bench.device("b")
    play(bench, [a, b])
    n = LAYOUT.n_params
    values = codec.decode(a.last(Work).adapter, n_values=2 * n)
    np.testing.assert_allclose(values[:n], bench.runner.versions.adapter(2), atol=1e-3)
    assert values[n:].any()


def test_a_plain_task_asks_nothing_of_its_devices(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    device = bench.device("a")
    device.join()
    bench.settle()
    assert device.last(Work).plan.terms is None
    assert codec.decode(device.last(Work).adapter, n_values=N_PARAMS).size == N_PARAMS


def test_a_task_goes_on_only_with_the_options_that_it_was_begun_with(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", "hetlora")
    other = dataclasses.replace(bench.settings, strategy_options={"ranks": {"a": 2}})
    setup = open_task(other, bench.folders, make_key=False)
    with pytest.raises(ConfigError, match=r"begun with strategy hetlora#\w{8}, the configuration says hetlora#\w{8}"):
        TaskRunner(setup, bench.world).resume()


def test_control_variates_go_with_no_gate_and_no_rollback(tmp_path: Path) -> None:
    gate = {"gate": GateSettings(), "evaluation": evaluation_sets(tmp_path)}
    with pytest.raises(ConfigError, match="control variates of a version that it rejects"):
        bench_for(tmp_path / "gated", "scaffold", **gate)
    bench = bench_for(tmp_path / "bench", "scaffold")
    play(bench, [bench.device(name) for name in "ab"])
    status, why = bench.command("rollback", 0)
    assert status == "refused"
    assert "control variates" in why


def test_sample_privacy_is_refused_where_a_loss_compares_examples(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", kind="image-text")
    with pytest.raises(ConfigError, match="compares examples"):
        Bench(tmp_path, plan=Plan(dp=SampleDp(clip=1.0, noise_multiplier=1.0)))


@pytest.mark.parametrize("strategy", ["flora", "fedex-lora"])
def test_what_devices_are_handed_is_the_exact_mean_of_what_they_sent(strategy: str, tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", strategy, strategy_options={}, broadcast="float32")
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b) * 9:
        take_part(device)
        bench.settle()
        first, second = (a.all(Work)[index] for index in (0, -1)) if a.all(Work) else (None, None)
        if second is not None and second.round == 2:
            break
    assert first is not None
    assert second is not None
    before, after = (handed(work) for work in (first, second))
    sent = {one.update_id: one.n_examples for one in bench.store.updates(TASK, 1)}
    assert len(set(sent.values())) == 1
    deltas = [np.random.default_rng([1, *name]).normal(0, 0.05, before[0].size) for name in (b"a", b"b")]
    local = [effect(before[0] + delta.astype(np.float32)) for delta in deltas]
    np.testing.assert_array_equal(before[1], 0)
    np.testing.assert_allclose(after[1] + effect(after[0]), np.mean(local, axis=0), atol=1e-6)


def handed(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Return the adapter and the base change of a work message."""
    n_values = n_work_values(work.plan.terms, LAYOUT)
    vector = codec.decode(work.adapter, n_values=n_values)
    return vector[: LAYOUT.n_params], vector[LAYOUT.n_params :]


@pytest.mark.parametrize("strategy", ["flora", "fedex-lora"])
def test_a_rollback_brings_the_base_back(strategy: str, tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "bench", strategy, rounds=9)
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b) * 8:
        take_part(device)
        bench.settle()
        if bench.version == 2:
            break
    assert bench.command("rollback", 1) == ("done", "")
    versions = {one.version: dict(one.state) for one in bench.store.versions(TASK)}
    assert versions[3] == versions[1] != versions[2]
    np.testing.assert_array_equal(bench.runner.versions.measured(3), bench.runner.versions.measured(1))


def test_fedit_says_in_the_log_how_inexact_each_version_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_for(tmp_path / "bench", "fedit", rounds=2)
    with caplog.at_level("INFO", logger="edgefold"):
        play(bench, [bench.device("a"), bench.device("b")])
    said: list[dict[str, Any]] = [
        one.facts  # type: ignore[attr-defined]  # of ``host.logs.event``
        for one in caplog.records
        if one.getMessage() == "fold-figures"
    ]
    assert [facts["version"] for facts in said] == [1, 2]
    assert all(facts["figures"]["aggregation_error"] > 1e-3 for facts in said)


def test_a_version_is_measured_with_its_base(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    bench = bench_for(folder, "flora", evaluation=evaluation_sets(tmp_path))
    bench.settle()
    (request,) = bench.evaluator.requests
    assert request.has_base_change
    assert request.adapter.size == LAYOUT.n_params + 6 * 5 + 3 * 7


def test_a_bundle_in_few_bits_is_refused_when_the_task_is_made(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", layout=LAYOUT)
    with pytest.raises(ConfigError, match=r"no base\.json\): export it again, without --quantize"):
        Bench(tmp_path, strategy="flora", plan=PLAIN)
