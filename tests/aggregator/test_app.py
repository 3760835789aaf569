"""The conversation of a round over a fake wire: joins, deadlines, cohorts, a broken link, evaluations, traffic."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.task_runner import GRACE_S
from protocol import codec
from protocol.errors import ConfigError, EngineError
from protocol.messages import Announce, Decline, Work
from tests.aggregator.workbench import FLEET, N_PARAMS, TASK, Bench, Device, evaluation_sets, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable


def joined(bench: Bench, *names: str) -> list[Device]:
    devices = [bench.device(name) for name in names]
    for device in devices:
        device.join()
        bench.settle()
    return devices


def facts_of(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.facts for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


def test_an_open_round_is_announced_to_whoever_comes(bench: Bench) -> None:
    bench.settle()
    late_comer = bench.device("a")
    announce = late_comer.last(Announce)
    assert announce == Announce(task=TASK, state="open", round=1, version=0, bundle_id=bench.bundle_id)


def test_work_holds_the_version_the_plan_and_a_seed_of_ones_own(bench: Bench) -> None:
    a, b = joined(bench, "a", "b")
    work = a.last(Work)
    adapter = codec.decode(work.adapter, n_values=N_PARAMS)
    np.testing.assert_allclose(adapter, bench.runner.versions.adapter(0), atol=1e-3)
    assert (work.round, work.version, work.seconds_left) == (1, 0, 100.0)
    assert dataclasses.replace(work.plan, seed=bench.settings.plan.seed) == bench.settings.plan
    assert work.plan.seed != b.last(Work).plan.seed


def test_a_repeated_join_gets_the_same_work_again(bench: Bench) -> None:
    (a,) = joined(bench, "a")
    a.join()
    bench.settle()
    first, second = a.all(Work)
    assert first == second
    assert bench.store.n_joined(TASK, 1) == 1


def test_a_full_cohort_declines_others_and_still_answers_its_own(bench: Bench) -> None:
    a, b, c = joined(bench, "a", "b", "c")
    assert c.last(Decline).reason == "not-selected"
    assert not c.all(Work)
    a.join()
    bench.settle()
    assert len(a.all(Work)) == 2
    assert len(b.all(Work)) == 1


def test_an_adapter_beyond_float16_is_broadcast_as_float32(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(broadcast="float16")
    huge = np.full(N_PARAMS, 1e6, np.float32)
    monkeypatch.setattr(bench.runner.versions, "state", lambda _version: {"adapter": huge})
    (a,) = joined(bench, "a")
    np.testing.assert_array_equal(codec.decode(a.last(Work).adapter, n_values=N_PARAMS), huge)


def test_a_task_runs_its_rounds_and_says_that_it_is_finished(bench: Bench) -> None:
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b, rounds=2)
    assert a.last(Announce).state == "finished"
    assert a.last(Announce).version == 2
    assert bench.service.is_done
    a.join(round_=2)
    bench.settle()
    assert a.last(Decline).reason == "finished"


def test_a_fold_adds_the_weighted_mean_of_what_was_sent(bench: Bench) -> None:
    a, b = joined(bench, "a", "b")
    old = bench.runner.versions.adapter(0).astype(np.float64)
    updates = [(a, 10, a.make_update(n_examples=10)), (b, 30, b.make_update(n_examples=30))]
    mean = np.zeros(N_PARAMS)
    for device, n_examples, update in updates:
        device.publish(update, "update")
        bench.settle()
        rng = np.random.default_rng([0, 1, *device.name.encode()])
        delta = rng.normal(0, 0.05, N_PARAMS).astype(np.float32)
        encoded = codec.encode(delta, device.last(Work).plan.codec)
        mean += codec.decode(encoded, n_values=N_PARAMS).astype(np.float64) * n_examples / 40
    np.testing.assert_allclose(bench.runner.versions.adapter(1), old + mean, rtol=1e-6)


def test_the_deadline_folds_when_enough_came(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(cohort=3, min_cohort=2)
    a, b, _c = joined(bench, "a", "b", "c")
    for device in (a, b):
        device.update()
        bench.settle()
    assert bench.version == 0
    bench.clock.now += 101
    bench.settle()
    assert (bench.version, bench.round) == (1, 2)


def test_the_deadline_abandons_a_round_with_too_few(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgefold")
    a, _b = joined(bench, "a", "b")
    a.update()
    bench.settle()
    bench.clock.now += 101
    bench.settle()
    assert (bench.version, bench.round) == (0, 2)
    assert [one.state for one in bench.store.rounds(TASK)] == ["abandoned", "open"]
    assert [one.status for one in bench.store.updates(TASK, 1)] == ["discarded"]
    assert a.last(Announce).round == 2
    assert facts_of(caplog, "round-abandoned")[0]["round"] == 1
    bench.play(a, *joined(bench, "b"), rounds=2)
    assert bench.version == 2


def test_a_late_update_is_refused_with_a_receipt(bench: Bench) -> None:
    a, b = joined(bench, "a", "b")
    b_update = b.make_update()
    bench.clock.now += 101
    bench.settle()
    b.publish(b_update, "update")
    bench.settle()
    assert b.receipts() == [("refused", "late")]
    assert not a.receipts()


def test_no_deadline_passes_while_the_broker_is_away(bench: Bench) -> None:
    joined(bench, "a", "b")
    bench.broker.drop()
    bench.settle()
    bench.clock.now += 1000
    bench.settle()
    assert bench.round == 1
    bench.broker.restore()
    bench.settle()
    bench.clock.now += GRACE_S - 1
    bench.settle()
    assert bench.round == 1
    bench.clock.now += 2
    bench.settle()
    assert bench.round == 2


def test_announcements_are_published_again_when_the_broker_comes_back(bench: Bench) -> None:
    bench.settle()
    bench.broker.drop()  # its retained messages are gone
    bench.broker.restore()
    bench.settle()
    assert bench.device("a").last(Announce).round == 1


def test_a_receipt_lost_with_the_broker_is_asked_for_again(bench: Bench) -> None:
    a, b = joined(bench, "a", "b")
    update = a.make_update()
    a.publish(update, "update")
    bench.hooks.before = lambda name: bench.broker.drop() if name == "publish" else None
    bench.settle()  # accepted, but the receipt finds no broker
    bench.hooks.before = lambda _name: None
    assert not a.receipts()
    bench.broker.restore()
    bench.settle()
    a.publish(update, "update")
    b.update()
    bench.settle()
    assert ("accepted", None) in a.receipts()
    assert len(bench.store.updates(TASK, 1)) == 2
    assert bench.version == 1


def test_nothing_readable_of_an_update_crosses_the_broker(bench: Bench) -> None:
    (a,) = joined(bench, "a")
    delta = np.full(N_PARAMS, 0.03125, np.float32)
    a.update(delta=delta)
    bench.settle()
    encoded = codec.encode(delta, a.last(Work).plan.codec)
    wire = b"".join(payload for topic, payload in bench.broker.traffic if "/up/" in topic)
    assert encoded not in wire
    assert bench.setup.keys.of_round(1).raw not in b"".join(payload for _, payload in bench.broker.traffic)


def test_updates_at_rest_are_sealed_and_gone_after_the_fold(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.runner._world = dataclasses.replace(bench.runner._world, keep_folded_updates=False)
    a, b = joined(bench, "a", "b")
    a.update()
    bench.settle()
    (record,) = bench.store.updates(TASK, 1)
    at_rest = bench.blobs.get(record.blob, max_bytes=10**6)
    encoded = codec.encode(a_delta(), a.last(Work).plan.codec)
    assert len(encoded) == record.payload_bytes < len(at_rest)
    assert encoded not in at_rest
    b.update()
    bench.settle()
    names = {path.name for path in bench.blob_folder.iterdir()}
    assert names == set(bench.store.versions(TASK)[0].state.values()) | set(
        bench.store.versions(TASK)[1].state.values()
    )


def a_delta() -> Any:
    """What ``Device.update`` of device a sends in round 1."""
    return np.random.default_rng([0, 1, *b"a"]).normal(0, 0.05, N_PARAMS).astype(np.float32)


def test_traffic_counts_every_message_of_the_round(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgefold")
    bench.settle()
    a, b = bench.device("a"), bench.device("b")
    (announce,) = [len(topic) + len(data) for topic, data in bench.broker.traffic]
    bench.play(a, b)
    traffic = [(topic, len(topic) + len(data)) for topic, data in bench.broker.traffic]
    up = sum(n for topic, n in traffic if "/up/" in topic)
    down = sum(n for topic, n in traffic if "/down/" in topic) + 2 * announce
    (folded,) = facts_of(caplog, "version-folded")
    assert (folded["bytes_up"], folded["bytes_down"]) == (up, down)
    joins = facts_of(caplog, "device-joined")
    accepted = facts_of(caplog, "update-accepted")
    assert sum(one["bytes_up"] for one in joins) + sum(one["bytes"] for one in accepted) == up


def test_events_have_the_facts_that_the_fleet_reads(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    caplog.set_level(logging.INFO, "edgefold")
    bench = make_bench(evaluation=evaluation_sets(tmp_path), rounds=1)
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    a.join(round_=9)
    a.update(seed=5)
    bench.settle()
    bench.broker.drop()
    bench.settle()
    facts = {
        "link-up": {"mqtt"},
        "link-down": {"why"},
        "round-opened": {"task", "round", "version"},
        "device-joined": {"task", "round", "device", "bytes_up", "bytes_down"},
        "update-accepted": {
            "task", "round", "device", "update_id", "bytes", "payload_bytes", "n_examples", "loss", "train_s",
        },
        "update-refused": {"reason", "device", "task", "round"},
        "version-folded": {
            "task", "round", "version", "n_updates", "seconds", "train_s_max", "bytes_up", "bytes_down", "loss",
        },
        "version-evaluated": {"task", "version", "pooled_accuracy", "loss", "sets", "wall_s"},
        "task-finished": {"task", "version"},
    }  # fmt: skip
    for name, keys in facts.items():
        logged = facts_of(caplog, name)
        assert logged, name
        assert keys <= logged[0].keys(), name


def test_every_version_is_evaluated_the_bundles_first(make_bench: Callable[..., Bench], tmp_path: Any) -> None:
    bench = make_bench(evaluation=evaluation_sets(tmp_path))
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    assert bench.evaluator.versions == [0, 1, 2]
    evaluation = bench.store.evaluations(TASK)[2]
    assert evaluation.pooled_accuracy == pytest.approx(0.55)  # 5 and 6 of 10
    assert evaluation.pooled_loss == pytest.approx(0.5)


def test_a_failed_evaluation_is_tried_once_more_and_does_not_stop_the_task(
    make_bench: Callable[..., Bench], tmp_path: Any
) -> None:
    bench = make_bench(evaluation=evaluation_sets(tmp_path))
    bench.evaluator.fails = [EngineError("killed"), EngineError("killed again")]
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    assert bench.evaluator.versions.count(0) <= 2
    assert bench.version == 2
    assert bench.service.is_done


def test_versions_without_metrics_are_evaluated_after_a_restart(
    make_bench: Callable[..., Bench], tmp_path: Any
) -> None:
    bench = make_bench(evaluation=evaluation_sets(tmp_path))
    bench.evaluator.fails = [EngineError("killed"), EngineError("killed again")]
    bench.settle()
    assert not bench.store.evaluations(TASK)
    bench.restart()
    bench.settle()
    assert list(bench.store.evaluations(TASK)) == [0]


def test_a_task_begun_with_another_bundle_is_refused(bench: Bench) -> None:
    bench.stop()
    make_bundle(bench.folder / "other", seed=1)
    bench.settings = dataclasses.replace(bench.settings, bundle=str(bench.folder / "other"))
    with pytest.raises(ConfigError, match="task sentiment: it was begun with bundle"):
        bench.start()


def test_more_rounds_reopen_a_finished_task(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=1)
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    assert bench.runner.is_finished
    bench.settings = dataclasses.replace(bench.settings, rounds=2)
    bench.restart()
    bench.play(a, b)
    assert bench.version == 2


def test_fewer_rounds_finish_a_running_task(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(rounds=5)
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    bench.settings = dataclasses.replace(bench.settings, rounds=1)
    bench.restart()
    bench.settle()
    assert bench.runner.is_finished
    assert (a.last(Announce).state, a.last(Announce).version) == ("finished", 1)


COUNTER = itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(["a", "b", "c"]), n_sent=st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_the_version_does_not_depend_on_order_or_repetition(
    make_bench: Callable[..., Bench], order: list[str], n_sent: list[int]
) -> None:
    bench = make_bench(f"bench-{next(COUNTER)}", rounds=1, cohort=3, min_cohort=3)
    devices = dict(zip("abc", joined(bench, "a", "b", "c"), strict=True))
    for name, times in zip(order, n_sent, strict=True):
        update = devices[name].make_update()
        for _ in range(times):
            devices[name].publish(update, "update")
    bench.settle()
    assert bench.version == 1
    assert bench.adapter_bytes() == reference_bytes(make_bench)
    assert len(bench.folded_ids()) == 3


def reference_bytes(make_bench: Callable[..., Bench], cache: list[bytes] = []) -> bytes:  # noqa: B006 - once a session
    if not cache:
        bench = make_bench(f"bench-{next(COUNTER)}", rounds=1, cohort=3, min_cohort=3)
        bench.play(*(bench.device(name) for name in "abc"))
        cache.append(bench.adapter_bytes())
    return cache[0]


def test_the_fleets_name_is_part_of_what_is_signed(bench: Bench) -> None:
    assert bench.service._intake.fleet == FLEET
