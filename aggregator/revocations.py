"""Shuts revoked devices out of the broker: revocation list first, then the live connection, twice.

A revocation is a row that ``edgefold devices revoke`` writes; messages are refused from that moment on, whatever the
broker does. Here the broker learns of it. The list comes first, so that a device that is cut off cannot come back; the
second cut is for one that came back before the broker had read the list. Interrupted at any point, it begins again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.ports import Clock, Issuer
    from aggregator.store_ports import DeviceStore

__all__ = ["Revocations"]

_LOOK_EVERY_S: Final = 0.5
_SECOND_CUT_S: Final = 2.0  # a broker's supervisor looks at the list four times a second


class Revocations:
    """Looks for revocations that the broker may not know of."""

    def __init__(self, *, devices: DeviceStore, issuer: Issuer, clock: Clock, evict: Callable[[str], None]) -> None:
        """Begin by writing the list anew, since one that is overdue makes a broker refuse everybody.

        Args:
            devices: where revocations are kept.
            issuer: signs the list.
            clock: the time.
            evict: begins to end a device's live connection, and returns soon.
        """
        self._devices, self._issuer, self._clock, self._evict = devices, issuer, clock, evict
        self._look_at_s = 0.0
        self._second_cut_at_s: dict[str, float] = {}
        self.write_list()

    def tick(self, now_s: float) -> None:
        """Do what is due."""
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_EVERY_S
        waiting = self._devices.to_shut_out()
        new = [device for device in waiting if device not in self._second_cut_at_s]
        if new:
            self.write_list()
        for device in new:
            self._second_cut_at_s[device] = now_s + _SECOND_CUT_S
            self._evict(device)
            event("device-revoked", device=device)
        for device in [one for one, at_s in self._second_cut_at_s.items() if at_s <= now_s]:
            self._evict(device)
            self._devices.shut_out(device)
            del self._second_cut_at_s[device]

    def write_list(self) -> None:
        """Write the revocation list anew."""
        now_unix_s = self._clock.unix_s()
        self._issuer.write_crl(self._devices.revoked_serials(now_unix_s), unix_s=now_unix_s)
