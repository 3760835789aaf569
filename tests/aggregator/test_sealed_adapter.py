"""A task that seals its adapter: each device opens its own copy, nobody else any, and nothing is downgraded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.privacy_settings import PrivacySettings
from aggregator.vectors import broadcast_payload
from protocol.errors import SealError
from protocol.messages import Announce, Decline, Work
from protocol.sealing import TaskKey, adapter_binding
from tests.aggregator.workbench import FLEET, TASK, Bench, Device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEALED = PrivacySettings(seal_adapter=True)


def opened(bench: Bench, device: str, work: Work, key: TaskKey) -> bytes:
    info = adapter_binding(
        fleet=FLEET, task=TASK, bundle_id=bench.bundle_id, round_=work.round, version=work.version, device=device
    )
    return key.open(work.adapter, info=info)


def handed(bench: Bench, device: Device, key: TaskKey) -> Work:
    device.join(seal_key=key.public_raw)
    bench.settle()
    return device.last(Work)


def test_every_device_opens_its_own_copy_and_no_other(make_bench: Callable[..., Bench]) -> None:
    bench, key = make_bench("sealed", privacy=SEALED), TaskKey.generate()
    a, b = bench.device("a"), bench.device("b")
    first, second = handed(bench, a, key), handed(bench, b, key)
    assert (
        opened(bench, "a", first, key)
        == opened(bench, "b", second, key)
        == bench.runner.versions.payload(bench.version)
    )
    assert (first.adapter_sealed, a.last(Announce).seal_adapter) == (True, True)
    with pytest.raises(SealError):
        opened(bench, "b", first, key)
    with pytest.raises(SealError):
        opened(bench, "a", first, TaskKey.generate())


@pytest.mark.parametrize("is_sealed", [True, False])
def test_no_message_of_a_sealed_round_holds_the_adapter(make_bench: Callable[..., Bench], *, is_sealed: bool) -> None:
    bench = make_bench("sealed", privacy=PrivacySettings(seal_adapter=is_sealed))
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        handed(bench, device, TaskKey.generate())
    for device in (a, b):
        device.update()
        bench.settle()
    assert bench.version == 1
    handed(bench, a, TaskKey.generate())
    for version in (0, 1):
        sent = broadcast_payload(bench.runner.versions.adapter(version), "float16")
        assert any(sent)
        # Without sealing the same search finds it, so that it looks for what is really sent.
        assert any(sent in data for _, data in bench.broker.traffic) is not is_sealed
        if is_sealed:
            assert not any(sent[: len(sent) // 2] in data for _, data in bench.broker.traffic)


@pytest.mark.parametrize("key", [None, bytes(1216), TaskKey.generate().public_raw[:1184] + bytes(32)])
def test_a_join_without_a_key_that_can_be_sealed_to_gets_nothing(
    key: bytes | None, make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench("sealed", privacy=SEALED)
    a = bench.device("a")
    a.join(seal_key=key)
    bench.settle()
    assert [one.reason for one in a.all(Decline)] == ["no-seal-key"]
    assert a.all(Work) == []
    assert handed(bench, a, TaskKey.generate()).adapter_sealed


def test_a_device_that_lost_its_key_asks_again_with_another(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("sealed", privacy=SEALED)
    a, lost, fresh = bench.device("a"), TaskKey.generate(), TaskKey.generate()
    handed(bench, a, lost)
    bench.restart()
    assert opened(bench, "a", handed(bench, a, fresh), fresh) == bench.runner.versions.payload(bench.version)


def test_without_the_setting_messages_are_what_they_were(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "plain")
    a = bench.device("a")
    a.join()
    bench.settle()
    assert a.last(Work).adapter_sealed is None
    assert a.last(Announce).seal_adapter is None
