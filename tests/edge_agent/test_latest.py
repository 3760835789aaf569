"""A device in no round hears of a newer version, asks for it now and then, and serves it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.served_work import newest_served, read_work, served_version
from edge_agent.predict_settings import PredictSettings
from protocol.messages import Announce, Fetch, Latest
from protocol.sealing import adapter_binding, seal
from tests.edge_agent.rig import BUNDLE, DEVICE, FLEET, PLAN, TASK, Rig, to_sending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Asked(Rig):
    """A device whose model is asked."""

    predict = PredictSettings(port=0)

    def finished(self, version: int = 4, **changes: object) -> None:
        """The task ended without this device."""
        self.say(Announce(task=TASK, state="finished", round=9, version=version, bundle_id=BUNDLE, **changes))  # type: ignore[arg-type]

    def asks(self) -> Fetch:
        for _ in range(3):
            self.later(61.0)
        return self.heard(Fetch)[-1]

    def latest(self, version: int = 4, **changes: object) -> Latest:
        facts: dict[str, object] = {
            "task": TASK,
            "version": version,
            "bundle_id": BUNDLE,
            "plan": PLAN,
            "adapter": b"a",
        }
        return Latest(**{"adapter": b"a", **facts, **changes})  # type: ignore[arg-type]

    def served(self) -> tuple[int, bytes] | None:
        path = newest_served(self.folder / "state", TASK)
        work = None if path is None else read_work(path)
        return None if work is None else (work.version, work.adapter)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Asked]:
    one = Asked(tmp_path)
    yield one
    one.device_folder.close()


def test_a_device_of_no_round_asks_and_serves_the_final_version(rig: Asked) -> None:
    rig.finished()
    assert rig.asks() == Fetch(task=TASK, bundle_id=BUNDLE, version=0)
    rig.say(rig.latest())
    assert rig.served() == (4, b"a")
    assert served_version(rig.folder / "state", TASK, BUNDLE) == 4
    n = len(rig.heard(Fetch))
    for _ in range(4):
        rig.later(4000.0)
    assert len(rig.heard(Fetch)) == n  # it has it


def test_after_a_round_it_asks_for_what_came_of_it(rig: Asked) -> None:
    rig.say(rig.receipt(to_sending(rig)))
    rig.finished(version=1)
    assert rig.asks().version == 0
    rig.say(rig.latest(version=1))
    assert rig.served() == (1, b"a")


def test_it_asks_no_more_often_than_its_owner_says(rig: Asked) -> None:
    rig.finished()
    rig.asks()
    n = len(rig.heard(Fetch))
    rig.later(1700.0)
    assert len(rig.heard(Fetch)) == n
    rig.later(2000.0)
    assert len(rig.heard(Fetch)) == n + 1


def test_a_device_in_a_round_does_not_ask(rig: Asked) -> None:
    rig.say(replace(rig.announce(3), spread_s=0.0))
    for _ in range(5):
        rig.later(100.0)
    assert rig.heard(Fetch) == []


@pytest.mark.parametrize("predict", [PredictSettings(), PredictSettings(port=0, fetch_every_s=None)])
def test_a_device_that_nobody_asks_and_one_whose_owner_wants_none_do_not_ask(
    rig: Asked, predict: PredictSettings
) -> None:
    rig.predict = predict
    rig.restart()
    rig.finished()
    for _ in range(5):
        rig.later(100.0)
    assert rig.heard(Fetch) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 3},  # older than what the service announced
        {"bundle_id": "c" * 64},
        {"task": "other"},
        {"adapter": None},
        {"adapter_sealed": True},
    ],
)
def test_what_is_older_of_another_bundle_or_otherwise_wrong_is_not_kept(rig: Asked, wrong: dict[str, object]) -> None:
    rig.finished()
    rig.asks()
    rig.say(rig.latest(**wrong))  # type: ignore[arg-type]
    assert rig.served() is None


def test_a_version_that_is_older_than_the_served_one_is_not_believed(rig: Asked) -> None:
    rig.finished()
    rig.say(rig.latest(version=6))
    rig.say(rig.latest(version=5, adapter=b"b"))
    assert rig.served() == (6, b"a")


def test_a_sealed_version_opens_for_this_device_alone(rig: Asked) -> None:
    rig.finished(seal_adapter=True)
    key = rig.asks().seal_key
    assert key is not None
    rig.say(rig.latest())  # not sealed
    assert rig.served() is None
    facts = {"fleet": FLEET, "task": TASK, "bundle_id": BUNDLE, "version": 4}
    for device in ("another", DEVICE):
        info = adapter_binding(round_=0, device=device, **facts)  # type: ignore[arg-type]
        rig.say(rig.latest(adapter=seal(b"secret", public_raw=key, info=info), adapter_sealed=True))
        assert rig.served() == (None if device == "another" else (4, b"secret"))
