"""What an authority needs now and then: a changed issuing key taken up, a new server certificate, warnings, pruning.

Laws: everything here may be done again at any time, and is done at each start; the revocation list is written last,
since its change is what makes a broker read its files again.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from host.logs import event
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.ports import Clock

__all__ = ["KEEP_S", "WARN_S", "TrustUpkeep", "ends_soon"]

WARN_S: Final = 180 * 86_400.0  # whoever keeps the root's key has to be found
KEEP_S: Final = 30 * 86_400.0  # after its end: until then a device that comes late is told the true reason
_LOOK_EVERY_S: Final = 1.0
_DAY_S: Final = 86_400.0


class Keys(Protocol):
    """The authority, as far as it changes."""

    @property
    def issuing_ends_unix_s(self) -> float:
        """Until when the issuing certificate holds."""

    def refresh(self) -> bool:
        """Use the issuing key that is there now; return whether it is another."""

    def retire(self, unix_s: float) -> bool:
        """Forget former keys whose time has passed; return whether there were any."""

    def renew_own(self, host: str, *, now: datetime) -> bool:
        """Make the broker's certificate anew if need be; return whether it was."""


class Pruning(Protocol):
    """Removes rows that nothing needs."""

    def prune(self, before_unix_s: float) -> tuple[int, int]:
        """Remove what expired before then; return how many tokens and certificates."""


class TrustUpkeep:
    """Looks every second for a changed issuing key, and after all else once a day."""

    def __init__(
        self, keys: Keys, pruning: Pruning, *, host: str, clock: Clock, write_list: Callable[[], None]
    ) -> None:
        """Prepare; the first ``tick`` does everything.

        Args:
            keys: the authority.
            pruning: the database.
            host: by which devices reach the broker.
            clock: the time.
            write_list: writes the revocation list.
        """
        self._keys, self._pruning, self._host, self._clock, self._write_list = keys, pruning, host, clock, write_list
        self._look_at_s = self._daily_at_s = 0.0

    def tick(self, now_s: float) -> None:
        """Do what is due at the monotonic time ``now_s``."""
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_EVERY_S
        is_changed = self._keys.refresh()
        if is_changed:
            event("issuing-key-changed", ends_unix_s=self._keys.issuing_ends_unix_s)
        if is_changed or now_s >= self._daily_at_s:
            self._daily_at_s = now_s + _DAY_S
            self._daily(is_changed=is_changed)

    def _daily(self, *, is_changed: bool) -> None:
        now_unix_s = self._clock.unix_s()
        is_retired = self._keys.retire(now_unix_s)
        if self._renew_own(now_unix_s) or is_retired or is_changed:
            self._write_list()
        tokens, certificates = self._pruning.prune(now_unix_s - KEEP_S)
        if tokens or certificates:
            event("enrolment-pruned", tokens=tokens, certificates=certificates)
        why = ends_soon(self._keys.issuing_ends_unix_s, now_unix_s)
        if why is not None:
            event("issuing-ends", level=logging.WARNING, why=why)

    def _renew_own(self, now_unix_s: float) -> bool:
        try:
            return self._keys.renew_own(self._host, now=datetime.fromtimestamp(now_unix_s, UTC))
        except ConfigError as error:  # the issuing certificate ended: connections that are there go on
            event("issuing-ended", level=logging.ERROR, why=str(error))
            return False


def ends_soon(ends_unix_s: float, now_unix_s: float) -> str | None:
    """Return what to say of an issuing certificate that ends soon or has ended, or None."""
    if ends_unix_s - now_unix_s > WARN_S:
        return None
    when = time.strftime("%Y-%m-%d", time.gmtime(ends_unix_s))
    said = "ended" if ends_unix_s <= now_unix_s else "ends"
    return f"the issuing certificate {said} on {when}, and all that it signed with it: run edgefold authority renew"
