"""Which of a task's versions, rounds and folded updates may go.

Laws: pure; what a running task may still need never goes: the bundle's own adapter (the last resort of a rollback), the
newest promoted version and everything after it, and what an open round is based on; the rest goes oldest first, and
only so many at a time, so that no round has to wait for the tidying of a long past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.core.rounds import FINAL_STATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.core.gates import VersionStatus
    from aggregator.core.records import RoundRecord

__all__ = ["first_kept_update_round", "retired_rounds", "retired_versions"]


def retired_versions(statuses: Mapping[int, VersionStatus], *, keep: int, based_on: int, limit: int) -> tuple[int, ...]:
    """Return the versions that may go, oldest first, at most ``limit``.

    Args:
        statuses: every version that is there, by number.
        keep: how many of the newest stay.
        based_on: the version of the task's latest round.
        limit: how many go at a time.
    """
    promoted = [version for version, status in statuses.items() if status == "promoted"]
    stays_from = min(based_on, max(promoted, default=0))
    old = sorted(statuses)[:-keep]
    return tuple(version for version in old if 0 < version < stays_from)[:limit]


def retired_rounds(rounds: Sequence[RoundRecord], *, keep: int, limit: int) -> tuple[int, ...]:
    """Return the ended rounds that may go, oldest first, at most ``limit``; ``rounds`` are by number."""
    return tuple(one.round for one in rounds[:-keep] if one.state in FINAL_STATES)[:limit]


def first_kept_update_round(
    bytes_by_round: Sequence[tuple[int, int]], *, max_rounds: int | None, max_bytes: int | None
) -> int:
    """Return the oldest folded round whose updates are kept.

    Args:
        bytes_by_round: each folded round whose updates are there and what they take, oldest first.
        max_rounds: how many such rounds are kept; None: all.
        max_bytes: what they may take together; None: whatever. The newest round's stay however long they are.
    """
    first, total_bytes = 0, 0
    for n_kept, (round_, n_bytes) in enumerate(reversed(bytes_by_round), start=1):
        total_bytes += n_bytes
        is_over = max_bytes is not None and total_bytes > max_bytes
        if n_kept > 1 and (is_over or (max_rounds is not None and n_kept > max_rounds)):
            return first
        first = round_
    return 0
