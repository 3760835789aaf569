"""Keeps the owner's rules: looks at the sensors, says what may be done now, pauses and ends the trainer.

Laws: the rules decide (``core.eligibility``), this only carries out; what a day has used is durable, at most a minute
of it is lost; a trainer that is paused too long, or whose memory or disk is needed, is ended, and goes on from its last
checkpoint later. Without rules no sensor is ever read and nothing is written.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.conduct_record import ConductRecord, read_conduct, write_conduct
from edge_agent.core.eligibility import Hold, holds_of, used_by
from edge_agent.core.session import SendJoin, SendUpdate
from edge_agent.rules_settings import RulesSettings
from host.logs import event as log
from protocol.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.core.eligibility import Readings
    from edge_agent.core.session import Action
    from edge_agent.ports import Running

__all__ = ["Conduct"]

_RECORD_EVERY_S: Final = 60.0


class Conduct:
    """One device's behaviour; of the agent's thread alone."""

    def __init__(
        self,
        rules: RulesSettings,
        folder: Path,
        sensors: Callable[[int | None], Readings],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up today's use from ``folder``; ``sensors`` reads, given the trainer's process id."""
        self._rules, self._folder, self._sensors, self._clock = rules, folder, sensors, clock
        self._has_rules = rules != RulesSettings(look_every_s=rules.look_every_s, end_after_s=rules.end_after_s)
        self._use = read_conduct(folder).use
        self._holds: tuple[Hold, ...] = ()
        self._due_s = self._counted_s = clock()
        self._recorded_s: float | None = None
        self._paused: tuple[Running, float] | None = None  # whom, and since when

    @property
    def wait_s(self) -> float | None:
        """How long until the next look, None if there is nothing to look at."""
        return max(0.0, self._due_s - self._clock()) if self._has_rules else None

    @property
    def may_send(self) -> bool:
        """Whether the device may join, send and fetch."""
        return not any(one.stops == "sending" for one in self._holds)

    @property
    def may_train(self) -> bool:
        """Whether it may train."""
        return not any(one.stops != "sending" for one in self._holds)

    def may_do(self, action: Action | None) -> bool:
        """Whether ``action`` may be sent now: no joining for what may not be trained; a sum's steps always go."""
        match action:
            case SendJoin():
                return self.may_send and self.may_train
            case SendUpdate():
                return self.may_send
            case _:
                return True

    def sent(self, n_bytes: int) -> None:
        """Count what went over the network."""
        self._use = used_by(self._use, self._use.day, sent_bytes=n_bytes)

    def turn(self, running: Running | None) -> bool:
        """Look, if it is time; return whether ``running`` must be ended."""
        now_s = self._clock()
        if not self._has_rules or now_s < self._due_s:
            return False
        self._due_s = now_s + self._rules.look_every_s
        readings = self._sensors(None if running is None else running.pid)
        is_working = running is not None and self._paused is None
        self._use = used_by(self._use, readings.day, train_s=now_s - self._counted_s if is_working else 0.0)
        self._counted_s = now_s
        before, self._holds = self._holds, holds_of(self._rules, readings, self._use, before=self._holds)
        self._say(before, now_s)
        return running is not None and self._must_end(running, now_s)

    def _must_end(self, running: Running, now_s: float) -> bool:
        if self._paused is not None and self._paused[0] is not running:
            self._paused = None
        if self.may_train:
            if self._paused is not None:
                running.resume()
                self._paused = None
                log("training-resumed")
            return False
        if self._paused is None:
            running.pause()
            self._paused = running, now_s
            log("training-paused", why="; ".join(one.what for one in self._holds))
        is_urgent = any(one.stops == "running" for one in self._holds)
        if is_urgent or now_s - self._paused[1] >= self._rules.end_after_s:
            self._paused = None
            log("training-ended-by-rule", why="; ".join(one.what for one in self._holds))
            return True
        return False

    def _say(self, before: tuple[Hold, ...], now_s: float) -> None:
        has_changed = {one.rule for one in before} != {one.rule for one in self._holds}
        if has_changed:
            log("rules-hold" if self._holds else "rules-let-go", rules=[one.rule for one in self._holds])
        if has_changed or self._recorded_s is None or now_s - self._recorded_s >= _RECORD_EVERY_S:
            self._recorded_s = now_s
            try:
                write_conduct(
                    self._folder, ConductRecord(use=self._use, holds=tuple(one.what[:256] for one in self._holds))
                )
            except StorageError as error:  # a full disk: the rule about it may be why we are here
                log("conduct-not-kept", error=str(error))
