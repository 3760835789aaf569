"""MQTT topics of protocol version 1, made and parsed in one place.

- ``ef/1/<fleet>/task/<task>/announce``: the service writes it, retained.
- ``ef/1/<fleet>/dev/<device>/up/<kind>``: that device writes it.
- ``ef/1/<fleet>/dev/<device>/down/<kind>``: that device reads it.

And on the claim listener, where devices are not known yet:

- ``ef/1/<fleet>/claim/<id>/up`` and ``.../down``: of one claim; the id is random, so nobody else knows the topic.
- ``ef/1/<fleet>/welcome``: who the service is, retained.

Laws: fleet, task and device are ``protocol.fields.Name``, so none of them holds ``/``, ``+`` or ``#``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "all_announcements",
    "all_claims",
    "all_up",
    "announce",
    "claim_down",
    "claim_of",
    "claim_up",
    "device_of",
    "down",
    "matches",
    "my_down",
    "shared",
    "up",
    "welcome",
]

_ROOT: Final = "ef/1"


def announce(fleet: str, task: str) -> str:
    """Topic of a task's retained announcement."""
    return f"{_ROOT}/{fleet}/task/{task}/announce"


def all_announcements(fleet: str) -> str:
    """Filter that a device subscribes to."""
    return announce(fleet, "+")


def up(fleet: str, device: str, kind: str) -> str:
    """Topic on which ``device`` publishes messages of ``kind``."""
    return f"{_ROOT}/{fleet}/dev/{device}/up/{kind}"


def all_up(fleet: str) -> str:
    """Filter that the service subscribes to."""
    return up(fleet, "+", "+")


def shared(group: str, topic_filter: str) -> str:
    """Filter of which each message goes to one of the ``group`` alone (MQTT 5, section 4.8.2)."""
    return f"$share/{group}/{topic_filter}"


def down(fleet: str, device: str, kind: str) -> str:
    """Topic on which the service answers ``device``."""
    return f"{_ROOT}/{fleet}/dev/{device}/down/{kind}"


def my_down(fleet: str, device: str) -> str:
    """Filter that ``device`` subscribes to."""
    return down(fleet, device, "+")


def device_of(topic: str) -> str | None:
    """Return the device in an up or down topic, or None if it is neither."""
    parts = topic.split("/")
    if len(parts) == 7 and parts[:2] == _ROOT.split("/") and parts[3] == "dev" and parts[5] in ("up", "down"):
        return parts[4]
    return None


def welcome(fleet: str) -> str:
    """Topic of the retained welcome."""
    return f"{_ROOT}/{fleet}/welcome"


def claim_up(fleet: str, claim_id: str) -> str:
    """Topic on which a device claims."""
    return f"{_ROOT}/{fleet}/claim/{claim_id}/up"


def all_claims(fleet: str) -> str:
    """Filter that the service subscribes to on the claim listener."""
    return claim_up(fleet, "+")


def claim_down(fleet: str, claim_id: str) -> str:
    """Topic on which the service answers a claim."""
    return f"{_ROOT}/{fleet}/claim/{claim_id}/down"


def claim_of(topic: str) -> str | None:
    """Return the claim's id in a claim topic, or None if it is none."""
    parts = topic.split("/")
    return parts[4] if len(parts) == 6 and parts[:2] == _ROOT.split("/") and parts[3] == "claim" else None


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether ``topic`` matches ``topic_filter``, whoever's topic it is (MQTT 5, section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
