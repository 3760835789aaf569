"""Whoever recorded messages sends them again, before and after both sides were restarted: nothing comes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.renewal import Renewal
from protocol import signing, topics
from protocol.errors import RemoteProtocolError
from protocol.messages import Certificate, Join, Update, unpack_envelope
from tests.aggregator.workbench import FLEET, Bench
from tests.edge_agent.rig import Rig
from tests.edge_agent.test_renewal import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.device_folder.close()


def restarted(rig: Rig) -> None:
    rig.crash()
    rig.start()
    rig.turns()


def rounds_joined(rig: Rig) -> list[int]:
    return [join.round for join in rig.heard(Join)]


def test_an_announcement_that_was_only_heard_is_old_after_a_restart(rig: Rig) -> None:
    """Round 5 is on a bundle that this device does not have: nothing of it is in the session but that it was heard."""
    rig.say(replace(rig.announce(5), bundle_id="c" * 64))
    restarted(rig)
    rig.say(rig.announce(4))
    assert rounds_joined(rig) == []
    rig.say(rig.announce(6))
    assert rounds_joined(rig) == [6]


def test_a_later_round_on_an_earlier_version_is_a_rollback(rig: Rig) -> None:
    rig.say(replace(rig.announce(3), state="paused", version=7))
    restarted(rig)
    rig.say(replace(rig.announce(4), version=6))
    assert rounds_joined(rig) == []
    rig.say(replace(rig.announce(4), version=7))
    assert rounds_joined(rig) == [4]


def test_work_on_an_earlier_version_than_was_announced_is_not_taken(rig: Rig) -> None:
    rig.say(replace(rig.announce(3), version=2))
    restarted(rig)
    rig.say(replace(rig.work(3), version=1))
    assert rig.trainer.jobs == []
    rig.say(rig.work(3))
    assert len(rig.trainer.jobs) == 1


def test_an_older_certificate_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    made = Identity(tmp_path, begin_s=-1000, end_s=500)
    older, newer = made.sign(begin_s=-500, end_s=2000), made.sign(begin_s=-10, end_s=5000)
    for der in (older, newer):
        Renewal("pi", made.folder, made.keys).take(Certificate(chain=(der,)))
    life = made.folder.life_unix_s()
    with pytest.raises(RemoteProtocolError, match="before the present one"):
        Renewal("pi", made.folder, made.keys).take(Certificate(chain=(older,)))
    assert made.folder.life_unix_s() == life


def test_updates_and_joins_sent_again_after_a_restart_of_the_service_change_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rounds=3)
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    recorded = [(topic, data) for topic, data in bench.broker.traffic if "/up/" in topic]
    version, adapter = bench.version, bench.adapter_bytes()
    bench.restart()
    for topic, data in recorded:
        bench.broker.route(topic, data, retain=False)
    bench.settle()
    assert (bench.version, bench.adapter_bytes()) == (version, adapter)
    assert bench.store.joined(bench.settings.id, bench.round) == ()
    assert ("accepted", None) in a.receipts()

    a.join()
    bench.settle()
    (old, *_) = [data for topic, data in recorded if topic.endswith("update") and "/a/" in topic]
    body = signing.open_envelope(unpack_envelope(old), fleet=FLEET, key=a.key.public)
    assert isinstance(body, Update)
    moved = a.make_update(update_id=body.update_id)
    bench.broker.route(topics.up(FLEET, "a", "update"), a.publish(moved, "update"), retain=False)
    bench.settle()
    assert bench.refusals()["replayed"] >= 1
