"""What a task has spent of its privacy budget, as values.

Laws: an entry is made before its fold gives anything out; entries are never taken back; the same entry, found in the
database and in the spent file, counts once, and an entry that either of the two knows counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LedgerEntry", "PrivateFold", "Step", "merged", "steps_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``count`` equal mechanisms: each device taken with probability ``sampling_rate``, Gaussian noise."""

    noise_multiplier: float
    sampling_rate: float
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One fold's mechanism; ``epsilon`` is the whole task's after it, ``epsilon_unsampled`` if sampling hid nothing."""

    entry_id: str  # hex, 16 random bytes
    task: str
    round: int
    noise_multiplier: float
    sampling_rate: float
    clip: float
    count_noise: float | None = None  # sigma_b where the clip adapts
    quantile: float | None = None
    rate: float | None = None
    initial_clip: float
    cohort: int
    delta: float
    epsilon: float
    epsilon_unsampled: float
    spent_unix_s: float
    next_clip: float | None = None  # None until the fold is done
    noise_seed: bytes | None = field(default=None, repr=False)  # gone once the fold is done, unless updates are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFold:
    """What a fold adds to its entry."""

    next_clip: float
    keep_seed: bool


def steps_of(entries: Iterable[LedgerEntry]) -> tuple[Step, ...]:
    """Return the entries' mechanisms, equal ones counted."""
    counted = Counter((one.noise_multiplier, one.sampling_rate) for one in entries)
    return tuple(Step(noise_multiplier=z, sampling_rate=q, count=n) for (z, q), n in sorted(counted.items()))


def merged(known: Iterable[LedgerEntry], witnessed: Iterable[LedgerEntry]) -> tuple[LedgerEntry, ...]:
    """Return every entry of both, by round; of an entry in both that of ``known``."""
    by_id = {one.entry_id: one for one in witnessed} | {one.entry_id: one for one in known}
    return tuple(sorted(by_id.values(), key=lambda one: (one.round, one.spent_unix_s, one.entry_id)))
