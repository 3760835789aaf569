from __future__ import annotations

import pytest

from protocol import topics


def test_topics_are_as_the_broker_rules_name_them() -> None:
    assert topics.announce("f", "t") == "ef/1/f/task/t/announce"
    assert topics.up("f", "d", "join") == "ef/1/f/dev/d/up/join"
    assert topics.down("f", "d", "work") == "ef/1/f/dev/d/down/work"


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        (topics.all_announcements("f"), topics.announce("f", "t"), True),
        (topics.all_announcements("f"), topics.announce("g", "t"), False),
        (topics.all_up("f"), topics.up("f", "d", "join"), True),
        (topics.all_up("f"), topics.down("f", "d", "work"), False),
        (topics.my_down("f", "d"), topics.down("f", "d", "work"), True),
        (topics.my_down("f", "d"), topics.down("f", "e", "work"), False),
    ],
)
def test_a_filter_takes_its_own_topics_only(topic_filter: str, topic: str, *, expected: bool) -> None:
    assert topics.matches(topic_filter, topic) is expected


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        (topics.up("f", "d", "join"), "d"),
        (topics.down("f", "d", "work"), "d"),
        (topics.announce("f", "t"), None),
        ("ef/2/f/dev/d/up/join", None),
        ("ef/1/f/dev/d/up/join/more", None),
        ("ef/1/f/dev/d/sideways/join", None),
        ("", None),
    ],
)
def test_the_device_is_read_from_its_own_topics_only(topic: str, device: str | None) -> None:
    assert topics.device_of(topic) == device
