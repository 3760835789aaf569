"""Device tiers: a memory budget becomes a precision, checkpointing, a batch and a length, with the reason.

Laws: the choice is a pure function of the tier, the longest text and predicted peaks; what costs least accuracy and
time is tried first; a tier that nothing fits is refused with the nearest figure. The budget is what a trainer may have,
not what the board has: the owner's own programs and the kernel come first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.quantise import Precision
from protocol.bundle import MemoryPeak
from protocol.errors import ConfigError

__all__ = ["TIERS", "Choice", "Tier", "choose", "fitting", "tiers_of"]

MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A class of devices."""

    name: str
    budget_bytes: int  # for the trainer process
    why: str


# A third to a half of the board's memory, but never so much that a desktop or a camera beside it is pushed out.
TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier(name="pi-zero2", budget_bytes=200 * MB, why="512 MB in all, half of it free beside the system"),
        Tier(name="pi4", budget_bytes=700 * MB, why="2 GB in the smallest model"),
        Tier(name="pi5", budget_bytes=1400 * MB, why="4 GB in the usual model"),
        Tier(name="jetson-orin-nano", budget_bytes=2500 * MB, why="8 GB, shared with the GPU"),
        Tier(name="phone", budget_bytes=500 * MB, why="more, and the system ends a background process"),
        Tier(name="laptop", budget_bytes=3000 * MB, why="8 GB beside a browser"),
    )
}
# What is tried, in this order: 8 bits cost no accuracy that was seen, checkpointing costs time, 4 bits cost accuracy.
LADDER: tuple[tuple[Precision, bool], ...] = (
    ("fp32", False),
    ("nb8", False),
    ("nb8", True),
    ("nb4", True),
)
BATCHES = (16, 8, 4, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a tier gets."""

    tier: Tier
    precision: Precision
    checkpoint: bool
    batch: int
    seq: int | None
    peak_bytes: int  # predicted

    @property
    def reason(self) -> str:
        """Return the choice in one line."""
        shape = f"batch {self.batch}" + (f" x {self.seq} tokens" if self.seq else "")
        again = ", layers computed again" if self.checkpoint else ""
        return (
            f"{self.tier.name}: {self.precision}{again}, {shape}: {self.peak_bytes / MB:.0f} MB predicted of "
            f"{self.tier.budget_bytes / MB:.0f} MB ({self.tier.why})"
        )


def tiers_of(text: str) -> tuple[Tier, ...]:
    """Return the tiers that ``text`` names, separated by commas.

    Raises:
        ConfigError: an unknown or repeated name.
    """
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in TIERS]
    if unknown or len(set(names)) != len(names):
        message = f"--tier {text}: expected different names of {', '.join(TIERS)}"
        raise ConfigError(message)
    return tuple(TIERS[name] for name in names)


def choose(tier: Tier, peaks: Callable[[Precision, bool], tuple[MemoryPeak, ...]]) -> Choice:
    """Return the first rung of the ladder that fits the longest text with a batch of 4 or more, or else any.

    Args:
        tier: whose budget.
        peaks: gives the predicted peaks of a precision and checkpointing; asked only for rungs that are tried.

    Raises:
        ConfigError: not even one example fits.
    """
    best: Choice | None = None
    least = None
    for precision, checkpoint in LADDER:
        for peak in sorted(peaks(precision, checkpoint), key=lambda one: (one.seq or 0, one.batch), reverse=True):
            least = min(peak.peak_bytes, least or peak.peak_bytes)
            if peak.peak_bytes > tier.budget_bytes:
                continue
            found = Choice(
                tier=tier,
                precision=precision,
                checkpoint=checkpoint,
                batch=peak.batch,
                seq=peak.seq,
                peak_bytes=peak.peak_bytes,
            )
            if best is None or ((found.seq or 0), found.batch) > ((best.seq or 0), best.batch):
                best = found
            break
        if best is not None and best.batch >= BATCHES[2] and best.seq == _longest(peaks(*LADDER[0])):
            return best
    if best is None:
        message = f"--tier {tier.name}: one short example needs {(least or 0) / MB:.0f} MB, the tier has "
        message += f"{tier.budget_bytes / MB:.0f} MB; choose a smaller model"
        raise ConfigError(message)
    return best


def fitting(peaks: Sequence[MemoryPeak]) -> list[tuple[Tier, MemoryPeak | None]]:
    """Return for each tier the longest, then largest batch of a plan that stays within its budget; None: not one."""
    found = []
    for tier in TIERS.values() if peaks else ():
        within = [peak for peak in peaks if peak.peak_bytes <= tier.budget_bytes]
        found.append((tier, max(within, key=lambda one: (one.seq or 0, one.batch), default=None)))
    return found


def _longest(peaks: tuple[MemoryPeak, ...]) -> int | None:
    return max((peak.seq for peak in peaks if peak.seq is not None), default=None)
