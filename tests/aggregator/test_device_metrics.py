"""Figures that devices tell with their updates: bounded, only what was asked, shown; none under privacy."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.adapters.sql_metrics import SqlMetrics
from aggregator.dp_settings import DpSettings
from aggregator.metrics_report import device_metrics
from aggregator.privacy_settings import PrivacySettings
from protocol import cbor
from protocol.fields import FieldError, plain
from protocol.messages import UpdateContent, Work
from protocol.plan import SampleDp
from tests.aggregator.test_app import joined
from tests.aggregator.workbench import PLAN, TASK, Bench, task_settings

if TYPE_CHECKING:
    from collections.abc import Callable

ASKED = ("forgetting", "stream-accuracy")


def newest(bench: Bench) -> dict[str, dict[str, float]]:
    with closing(SqlMetrics(bench.folders.database)) as store:
        return store.newest(TASK)


def test_work_names_what_is_asked_and_an_update_brings_it(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(metrics=ASKED, rounds=5)
    a, b = joined(bench, "a", "b")
    assert a.last(Work).metrics == ASKED
    a.update(metrics={"stream-accuracy": 0.75, "forgetting": -0.125})
    b.update(metrics={"stream-accuracy": 0.25, "recent-accuracy": 0.5})  # the last was not asked for
    bench.settle()
    assert newest(bench) == {"a": {"stream-accuracy": 0.75, "forgetting": -0.125}, "b": {"stream-accuracy": 0.25}}
    over = device_metrics(bench.folders, TASK)["over_devices"]
    assert over["stream-accuracy"] == {"n": 2, "mean": 0.5, "lowest": 0.25, "highest": 0.75}
    for device in (a, b):
        device.join()
        bench.settle()
        device.update(metrics={"stream-accuracy": 1.0})
        bench.settle()
    assert newest(bench) == {"a": {"stream-accuracy": 1.0}, "b": {"stream-accuracy": 1.0}}


def test_a_task_that_asks_for_nothing_sends_and_keeps_what_it_always_did(bench: Bench) -> None:
    (a,) = joined(bench, "a")
    assert "metrics" not in plain(a.last(Work))
    a.update(metrics={"stream-accuracy": 0.75})
    bench.settle()
    assert a.receipts() == [("accepted", None)]
    assert newest(bench) == {}


@pytest.mark.parametrize(
    "metrics",
    [
        {"stream-accuracy": 1.5},
        {"stream-accuracy": float("nan")},
        {"stream-accuracy": float("inf")},
        {"stream-accuracy": 1},
        {"stream-accuracy": "0.5"},
        {"salary": 0.5},
        {f"m{i}": 0.5 for i in range(20)},
        {},
    ],
)
def test_figures_out_of_bounds_or_of_no_known_name_are_refused(
    metrics: dict[str, Any], make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench(metrics=ASKED)
    (a,) = joined(bench, "a")
    content = UpdateContent(n_examples=1, n_steps=1, loss=0.5, train_s=1.0, delta=b"x")
    a.update(content=cbor.dumps({**plain(content), "metrics": metrics}))
    bench.settle()
    assert a.receipts() == [("refused", "malformed")]
    assert newest(bench) == {}


def test_figures_go_with_the_rounds_rows(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(metrics=ASKED, rounds=5)
    a, b = joined(bench, "a", "b")
    for device in (a, b):
        device.update(metrics={"forgetting": 0.5})
        bench.settle()
    bench.retention_rows.retire_rounds(TASK, [1])
    assert newest(bench) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": PrivacySettings(level="secure-sum"), "cohort": 5, "min_cohort": 5},
        {"privacy": PrivacySettings(dp=DpSettings(mode="central", epsilon=8.0, delta=1e-5, clip=1.0))},
        {"plan": dataclasses.replace(PLAN, dp=SampleDp(clip=1.0, noise_multiplier=1.0))},
        {"metrics": ("forgetting", "forgetting")},
    ],
)
def test_a_task_that_hides_single_devices_asks_for_no_figures_of_them(changes: dict[str, Any], bench: Bench) -> None:
    with pytest.raises(FieldError, match="metrics:"):
        task_settings(bench.bundle, **{"metrics": ASKED, **changes})
