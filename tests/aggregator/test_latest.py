"""The newest promoted version for a device that predicts: what work would bring it, and not too often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.gate_settings import GateSettings
from aggregator.latest import EVERY_S
from aggregator.privacy_settings import PrivacySettings
from protocol import codec
from protocol.messages import Fetch, Latest
from protocol.sealing import TaskKey, adapter_binding
from tests.aggregator.workbench import FLEET, N_PARAMS, TASK, Bench, Device, evaluation_sets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fetch(device: Device, version: int = 0, **changes: Any) -> None:
    facts = {"task": TASK, "bundle_id": device.bench.bundle_id, "version": version, **changes}
    device.publish(Fetch(**facts), "fetch")
    device.bench.settle()


def test_a_device_of_no_round_gets_the_final_version(bench: Bench) -> None:
    bench.play(bench.device("a"), bench.device("b"), rounds=2)
    assert bench.runner.is_finished
    c = bench.device("c")
    fetch(c)
    latest = c.last(Latest)
    assert (latest.version, latest.adapter_sealed) == (2, None)
    adapter = codec.decode(latest.adapter or b"", n_values=N_PARAMS)
    np.testing.assert_allclose(adapter, bench.runner.versions.adapter(2), atol=1e-3)
    assert latest.plan == bench.settings.plan
    assert bench.store.is_joined(TASK, 2, "c") is False


def test_who_has_it_is_told_so_without_an_adapter(bench: Bench) -> None:
    bench.play(bench.device("a"), bench.device("b"))
    c = bench.device("c")
    for version in (1, 5):
        fetch(c, version)
        assert (c.last(Latest).version, c.last(Latest).adapter) == (1, None)


def test_an_adapter_is_given_once_in_a_while(bench: Bench) -> None:
    bench.play(bench.device("a"), bench.device("b"))
    c, d = bench.device("c"), bench.device("d")
    for _ in range(5):
        fetch(c)
    fetch(d)
    assert (len(c.all(Latest)), len(d.all(Latest))) == (1, 1)
    assert bench.refusals() == {"too-often": 4}
    bench.clock.now += EVERY_S
    fetch(c)
    assert len(c.all(Latest)) == 2


@pytest.mark.parametrize(
    ("changes", "reason"), [({"task": "other"}, "wrong-task"), ({"bundle_id": "c" * 64}, "wrong-bundle")]
)
def test_another_task_or_bundle_is_counted_and_gets_nothing(changes: dict[str, Any], reason: str, bench: Bench) -> None:
    bench.play(bench.device("a"), bench.device("b"))
    c = bench.device("c")
    fetch(c, **changes)
    assert c.all(Latest) == []
    assert bench.refusals() == {reason: 1}


def test_a_sealed_adapter_is_sealed_to_the_one_that_asks(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(privacy=PrivacySettings(seal_adapter=True))
    devices = bench.device("a"), bench.device("b")
    for device in devices:
        device.join(seal_key=TaskKey.generate().public_raw)
        bench.settle()
    for device in devices:
        device.update()
        bench.settle()
    c, key = bench.device("c"), TaskKey.generate()
    fetch(c)
    fetch(c, seal_key=bytes(1216))
    assert c.all(Latest) == []
    assert bench.refusals() == {"no-seal-key": 2}
    fetch(c, seal_key=key.public_raw)
    latest = c.last(Latest)
    assert latest.adapter_sealed
    facts = {"fleet": FLEET, "task": TASK, "bundle_id": bench.bundle_id, "version": 1, "device": "c"}
    opened = key.open(latest.adapter or b"", info=adapter_binding(round_=0, **facts))  # type: ignore[arg-type]
    assert opened == bench.runner.versions.payload(1)


def test_a_candidate_is_given_to_nobody(
    make_bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = evaluation_sets(tmp_path)
    bench = make_bench(evaluation=sets, gate=GateSettings(sets={"tweets": 0.5}), rounds=5)
    monkeypatch.setattr(bench.evaluator, "start", lambda *_: None)  # no verdict comes
    bench.play(bench.device("a"), bench.device("b"))
    assert bench.version == 1
    c = bench.device("c")
    fetch(c)
    assert (c.last(Latest).version, c.last(Latest).adapter) == (0, None)


def test_a_stranger_gets_nothing(bench: Bench) -> None:
    bench.play(bench.device("a"), bench.device("b"))
    fetch(stranger := Device(bench, "s"))
    assert stranger.all(Latest) == []
    assert bench.refusals() == {"unknown-device": 1}
