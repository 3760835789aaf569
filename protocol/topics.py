"""MQTT topics of protocol version 1, made and parsed in one place.

- ``ef/1/<fleet>/task/<task>/announce``: the service writes it, retained.
- ``ef/1/<fleet>/dev/<device>/up/<kind>``: that device writes it.
- ``ef/1/<fleet>/dev/<device>/down/<kind>``: that device reads it.

Laws: fleet, task and device are ``protocol.fields.Name``, so none of them holds ``/``, ``+`` or ``#``.
"""

from __future__ import annotations

from typing import Final

__all__ = ["all_announcements", "all_up", "announce", "device_of", "down", "my_down", "up"]

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
