"""The machines that images are made for, one a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deploy.flash.targets import qemu_virt, rpi
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from deploy.flash.target import Target

__all__ = ["TARGETS", "target_named"]

TARGETS: Final = {one.name: one for one in (rpi.TARGET, qemu_virt.TARGET)}


def target_named(name: str) -> Target:
    """Return the target.

    Raises:
        ConfigError: there is none of this name (the user's fault).
    """
    found = TARGETS.get(name)
    if found is None:
        raise ConfigError(f"target {name!r}: expected {', '.join(TARGETS)} or ssh://USER@HOST")
    return found
