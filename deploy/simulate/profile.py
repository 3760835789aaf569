"""What a simulated fleet is made of: groups of devices with their speeds, availability and drop-outs (a TOML file).

    [[group]]
    name = "pi4"
    share = 0.5          # of all devices, relative to the other groups'
    train_s = 4.0        # one round's training, in seconds
    spread = 0.2         # the time varies by so much either way, uniformly
    available = 0.9      # probability to answer an announcement
    drop_out = 0.05      # probability to fall silent with work in hand
    examples = [100, 500]

Laws: a device's group follows from its number alone, so that growing a fleet changes nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from host.config import load
from protocol.fields import FieldError, Length, Name, Range

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["STEADY", "Group", "Profile", "load_profile"]

_GOLDEN: Final = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly at every length (Weyl)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Devices of one kind."""

    name: Name
    share: Annotated[float, Range(1e-6, 1e6)] = 1.0
    train_s: Annotated[float, Range(0.0, 86_400.0)] = 0.0
    spread: Annotated[float, Range(0.0, 1.0)] = 0.0
    available: Annotated[float, Range(0.0, 1.0)] = 1.0
    drop_out: Annotated[float, Range(0.0, 1.0)] = 0.0
    examples: Annotated[tuple[Annotated[int, Range(1, 100_000)], ...], Length(2, 2)] = (100, 500)

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if self.examples[0] > self.examples[1]:
            raise FieldError(f"group {self.name}: examples: {self.examples[0]} is more than {self.examples[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A fleet's groups."""

    group: Annotated[tuple[Group, ...], Length(1, 64)]

    def group_of(self, index: int) -> Group:
        """Return the group of device number ``index``."""
        at = (index + 1) * _GOLDEN % 1.0 * sum(one.share for one in self.group)
        for one in self.group:
            at -= one.share
            if at < 0:
                return one
        return self.group[-1]


STEADY: Final = Profile(group=(Group(name="steady"),))


def load_profile(path: Path) -> Profile:
    """Return the profile in ``path``.

    Raises:
        ConfigError: no such file, or not a profile (the user's fault).
    """
    return load(Profile, path)
