"""What a restored task has spent of its privacy budget: never less than it really has.

Laws: what the backup knows stays spent; what was spent after it is known only from the live second record, which has to
have all that the backup knows (an older copy proves nothing), or charged by the operator's word for so many rounds,
each at the price of the last; without either the task is stopped, if the operator says so, or nothing is restored. What
is charged goes to the second record alone, where ``privacy.TaskPrivacy`` finds and counts it; a task that is stopped
gets none, so that a restore that is tried again does not take it for the live one.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.adapters.spent_file import SpentFile
from aggregator.core.privacy.ledger import merged, steps_of
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aggregator.core.privacy.ledger import LedgerEntry

__all__ = ["PrivacyWord", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyWord:
    """What the operator says of tasks whose second record is lost.

    Attributes:
        spent_rounds: so many rounds may have been folded since the backup; None: not said.
        stop: stop them for good.
    """

    spent_rounds: int | None = None
    stop: bool = False


def settle(task: str, path: Path, known: Sequence[LedgerEntry], word: PrivacyWord, *, unix_s: float) -> bool:
    """Make the second record at ``path`` hold all that may have been spent; return whether the task must stop.

    Raises:
        ConfigError: it is not known, and ``word`` does not say (the user's fault).
        StorageError: the record cannot be read or written.
    """
    record = SpentFile(path)
    live = {one.entry_id for one in record.read()}
    if path.exists() and live.issuperset(one.entry_id for one in known):
        return False
    if word.spent_rounds is not None:
        record.add(merged(known, _charged(task, known, word.spent_rounds, unix_s=unix_s)))
        return False
    if not word.stop:
        what = "is older than the backup" if path.exists() else "is not there"
        raise ConfigError(
            f"task {task}: what it spent of its privacy budget since the backup is in {path}, which {what}: put the "
            "live one there, or say --spent-rounds N, the most rounds that were folded since; or --stop-private"
        )
    return True


def _charged(task: str, known: Sequence[LedgerEntry], n_rounds: int, *, unix_s: float) -> list[LedgerEntry]:
    from aggregator.core.privacy.accounting import epsilon_of  # noqa: PLC0415 - 40 MB that only this case needs

    if n_rounds and not known:
        raise ConfigError(f"task {task}: --spent-rounds: no round in the backup tells what one costs; --stop-private")
    charged: list[LedgerEntry] = []
    for number in range(1, n_rounds + 1):
        last = known[-1]
        entry = dataclasses.replace(
            last,
            entry_id=secrets.token_hex(16),
            round=last.round + number,
            spent_unix_s=unix_s,
            next_clip=None,
            noise_seed=None,
        )
        charged.append(entry)
    if not charged:
        return []
    steps = steps_of([*known, *charged])
    unsampled = [dataclasses.replace(one, sampling_rate=1.0) for one in steps]
    epsilon, plain = (epsilon_of(one, delta=charged[-1].delta) for one in (steps, unsampled))
    return [dataclasses.replace(one, epsilon=epsilon, epsilon_unsampled=plain) for one in charged]
