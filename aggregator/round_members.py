"""The open round's devices: who waits to be chosen, who has work, who is overdue. ``core`` has the rules.

A cache over the store, as the runner that owns it: a restart gathers anew unless somebody has work already, and gives
everybody the whole patience again. Devices that waited to be chosen ask again by themselves.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from aggregator.core.attendance import Attendance, patience_s
from aggregator.core.pace import pace_weight
from aggregator.core.selection import StratifiedGathering, n_places

if TYPE_CHECKING:
    from aggregator.config import TaskSettings
    from aggregator.core.intake import Admitted
    from aggregator.core.records import RoundRecord
    from aggregator.ports import Tags
    from aggregator.store_ports import StoreReader

__all__ = ["RoundMembers"]

_KEY_BYTES = 32


class RoundMembers:
    """Those of one round."""

    def __init__(
        self,
        settings: TaskSettings,
        store: StoreReader,
        round_: RoundRecord,
        *,
        now_s: float,
        tags: Tags | None = None,
    ) -> None:
        """Take up the round where the store has it."""
        joined = store.joined(round_.task, round_.round)
        answered = store.answer_times(round_.task, round_.round)
        waiting = [device for device in joined if device not in answered]
        self._selection, self._store, self._task, self._tags = settings.selection, store, round_.task, tags
        self.n_places = n_places(settings.cohort, settings.selection.over_select)
        self.attendance = Attendance(now_s=now_s, waiting=waiting, took_s=answered.values())
        self._gathering: StratifiedGathering[tuple[Admitted, int]] | None = None
        if settings.selection.gather_s > 0 and not joined:
            self._gathering = StratifiedGathering(self.n_places, key=secrets.token_bytes(_KEY_BYTES))
        self._first_offer_s: float | None = None

    @property
    def is_gathering(self) -> bool:
        """Whether joins wait to be chosen from."""
        return self._gathering is not None

    def offer(self, admitted: Admitted, *, n_bytes: int, now_s: float) -> Admitted | None:
        """Let a device wait; return the one that is out for it, if any."""
        if self._gathering is None:
            raise ValueError("offer: nothing is gathered any more")
        if self._first_offer_s is None:
            self._first_offer_s = now_s
        device = admitted.device
        tag = "" if self._tags is None else self._tags.tag_of(device)
        out = self._gathering.offer(device, (admitted, n_bytes), tag=tag, weight=self._weight_of(device))
        return None if out is None else out[1][0]

    def chosen(self, *, now_s: float) -> list[tuple[Admitted, int]]:
        """Return whom to hand work, each with its join's bytes, once the time to gather is over; else nobody."""
        if self._gathering is None or self._first_offer_s is None:
            return []
        if now_s - self._first_offer_s < self._selection.gather_s:
            return []
        chosen, self._gathering = self._gathering.chosen(), None
        return [said for _, said in chosen]

    def _weight_of(self, device: str) -> float:
        within_s = self._selection.prefer_within_s
        if within_s is None:
            return 1.0
        last = self._store.last_participation(self._task, device)
        return pace_weight(last, within_s=within_s, exploration=self._selection.exploration)

    @property
    def patience_s(self) -> float | None:
        """How long the round waits after its last join; None: until its deadline."""
        selection = self._selection
        return patience_s(
            self.attendance.median_s, factor=selection.straggler_factor, least_s=selection.straggler_least_s
        )
