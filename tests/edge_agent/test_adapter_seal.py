"""An agent whose task seals the adapter: a key for each round, in memory alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protocol.messages import Join, Work
from protocol.sealing import adapter_binding, seal
from tests.edge_agent.rig import BUNDLE, DEVICE, FLEET, TASK, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.device_folder.close()


def joined(rig: Rig, round_: int = 1) -> bytes:
    rig.say(replace(rig.announce(round_), seal_adapter=True))
    key = rig.heard(Join)[-1].seal_key
    assert key is not None
    return key


def sealed(rig: Rig, key: bytes, **bound: object) -> Work:
    facts = {
        "fleet": FLEET,
        "task": TASK,
        "bundle_id": BUNDLE,
        "round_": 1,
        "version": 0,
        "device": DEVICE,
    }
    info = adapter_binding(**{**facts, **bound})  # type: ignore[arg-type]
    work = rig.work(1)
    return replace(work, adapter=seal(work.adapter, public_raw=key, info=info), adapter_sealed=True)


def test_the_trainer_gets_the_opened_adapter(rig: Rig) -> None:
    rig.say(sealed(rig, joined(rig)))
    assert Path(str(rig.trainer.jobs[0].adapter)).read_bytes() == rig.work(1).adapter


@pytest.mark.parametrize("bound", [{"device": "dev-2"}, {"round_": 2}, {"version": 7}, {"task": "u"}, {"fleet": "g"}])
def test_an_adapter_that_is_bound_to_something_else_is_refused(rig: Rig, bound: dict[str, object]) -> None:
    key = joined(rig)
    rig.say(sealed(rig, key, **bound))
    assert rig.trainer.jobs == []
    rig.say(sealed(rig, key))
    assert len(rig.trainer.jobs) == 1


def test_every_round_has_its_own_key_and_a_join_again_the_same(rig: Rig) -> None:
    first = joined(rig)
    rig.link.connected()
    rig.turns()
    assert {join.seal_key for join in rig.heard(Join)} == {first}
    assert joined(rig, 2) != first


def test_the_key_is_never_on_the_disk_and_gone_after_a_restart(rig: Rig) -> None:
    key = joined(rig)
    private = rig.agent._seal_of_adapter._key
    assert private is not None
    files = [path.read_bytes() for path in rig.folder.rglob("*") if path.is_file()]
    assert files
    assert not any(private.raw[:32] in data or private.raw[-32:] in data for data in files)
    rig.crash()
    rig.start()
    rig.turns()
    rig.say(sealed(rig, key))
    assert rig.trainer.jobs == []
    again = rig.heard(Join)[-1].seal_key
    assert again not in (None, key)
    rig.say(sealed(rig, again or b""))
    assert len(rig.trainer.jobs) == 1


def test_the_key_is_forgotten_once_the_work_is_open(rig: Rig) -> None:
    rig.say(sealed(rig, joined(rig)))
    assert rig.agent._seal_of_adapter._key is None
