from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_agent.announcements import Announcements
from edge_agent.core.session import Announced, Job
from protocol.messages import Announce

HERE, ELSEWHERE = "b" * 64, "c" * 64
OPEN = Announce(task="t", state="open", round=3, version=2, bundle_id=HERE, spread_s=60.0)


def made() -> tuple[Announcements, dict[str, Path]]:
    bundles = {HERE: Path("here")}
    return Announcements(bundles), bundles


def test_an_announcement_means_its_round_to_the_session() -> None:
    announcements, _ = made()
    event = Announced(task="t", round=3, bundle_id=HERE, is_open=True)
    assert announcements.take(OPEN) == event
    assert list(announcements.as_events()) == [event]
    assert announcements.latest == {"t": OPEN}


def test_what_needs_a_missing_bundle_means_nothing_until_the_bundle_is_here() -> None:
    announcements, bundles = made()
    missing = replace(OPEN, bundle_id=ELSEWHERE)
    assert announcements.take(missing) is None
    assert list(announcements.as_events()) == []
    assert announcements.needed_bundles() == {ELSEWHERE}
    bundles[ELSEWHERE] = Path("there")
    assert [one.bundle_id for one in announcements.as_events()] == [ELSEWHERE]


def test_that_a_task_is_over_is_heard_without_its_bundle_which_nobody_needs_any_more() -> None:
    announcements, _ = made()
    event = announcements.take(replace(OPEN, bundle_id=ELSEWHERE, state="finished"))
    assert event is not None
    assert not event.is_open
    assert announcements.needed_bundles() == set()


def test_joins_are_spread_as_the_announcement_of_that_very_round_says() -> None:
    announcements, _ = made()
    assert announcements.spread_s(Job(task="t", round=3, bundle_id=HERE)) == 0.0
    announcements.take(OPEN)
    assert announcements.spread_s(Job(task="t", round=3, bundle_id=HERE)) == 60.0
    assert announcements.spread_s(Job(task="t", round=2, bundle_id=HERE)) == 0.0
