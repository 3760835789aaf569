"""A device tells of how it learns what the task asks for and its owner allows, sealed in its update, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.adapters.scores import ScoreState, save_scores
from edge_agent.device_metrics import metrics_for
from edge_agent.privacy_settings import PrivacySettings
from protocol.messages import UpdateContent, Work, unpack_content
from protocol.plan import SampleDp
from protocol.sealing import binding
from tests.edge_agent.rig import BUNDLE, DEVICE, FLEET, PLAN, TASK, Rig
from tests.protocol.samples import SUM_TERMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCORES = ScoreState(n_tested=8, n_right=6, recent="11", rows=((0.5,), (0.25, 1.0)))
ALL = ("stream-accuracy", "recent-accuracy", "average-accuracy", "forgetting", "backward-transfer")


class Telling(Rig):
    """A device whose owner allows two figures."""

    privacy = PrivacySettings(metrics=("stream-accuracy", "forgetting"))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Telling]:
    one = Telling(tmp_path)
    save_scores(tmp_path / "state", SCORES)
    yield one
    one.device_folder.close()


def sent(rig: Rig, work: Work) -> UpdateContent:
    rig.say(rig.announce(work.round))
    rig.say(work)
    rig.trainer.finish()
    rig.turns()
    from protocol.messages import Update

    update = rig.heard(Update)[-1]
    info = binding(
        fleet=FLEET, task=TASK, bundle_id=BUNDLE, round_=work.round, version=work.version, device=DEVICE,
        update_id=update.update_id,
    )  # fmt: skip
    return unpack_content(rig.task_key.open(update.sealed, info=info))


def test_what_is_asked_and_allowed_goes_sealed_with_the_update(rig: Telling) -> None:
    content = sent(rig, replace(rig.work(1), metrics=("stream-accuracy", "recent-accuracy", "forgetting")))
    assert content.metrics == {"stream-accuracy": 0.75, "forgetting": 0.25}


def test_what_nobody_asked_for_is_not_told(rig: Telling) -> None:
    assert sent(rig, rig.work(1)).metrics is None


def test_an_owner_who_said_nothing_tells_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    save_scores(tmp_path / "state", SCORES)
    assert sent(rig, replace(rig.work(1), metrics=ALL)).metrics is None
    rig.device_folder.close()


def test_nothing_is_told_where_single_devices_are_hidden(rig: Telling) -> None:
    work = replace(rig.work(1), metrics=ALL)
    folder = rig.folder / "state"
    assert metrics_for(work, ALL, folder) == {
        "stream-accuracy": 0.75,
        "recent-accuracy": 1.0,
        "average-accuracy": 0.625,
        "forgetting": 0.25,
        "backward-transfer": -0.25,
    }
    dp = replace(PLAN, dp=SampleDp(clip=1.0, noise_multiplier=1.0))
    assert metrics_for(replace(work, plan=dp), ALL, folder) is None
    assert metrics_for(replace(work, secure_sum=SUM_TERMS), ALL, folder) is None


def test_a_device_without_a_stream_has_nothing_to_tell(tmp_path: Path) -> None:
    rig = Telling(tmp_path)
    assert sent(rig, replace(rig.work(1), metrics=ALL)).metrics is None
    rig.device_folder.close()
