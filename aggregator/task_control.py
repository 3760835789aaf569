"""Decisions about one task: verdicts of its gate, and what its operator asked for.

Laws: a decision is one transaction (``LifecycleStore.apply``), after which the runner reads the store again; version
numbers only go up, so going back to an older version is a new version with the older one's content (devices
refuse older numbers); a round always starts from the newest version, and with a gate none opens before the newest
version is promoted; a buffer starts from the newest promoted one, so that a refused candidate needs no copy of the
version before it. Memory: the records of the task's versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.core.gates import VersionStatus, judge, promoted_before, published, statuses
from aggregator.core.lifecycle import refusal
from aggregator.core.records import Change, Standing, VersionRecord
from aggregator.core.rounds import SUM_STATES
from aggregator.core.strategies import STRATEGIES
from host.logs import event
from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.config import TaskSettings
    from aggregator.core.records import CommandRecord, Evaluation, TaskState
    from aggregator.ports import TaskKeys
    from aggregator.task_setup import World

__all__ = ["TaskControl"]


class TaskControl:
    """Takes decisions about one task; the runner reads the store again after each."""

    def __init__(self, settings: TaskSettings, world: World, *, keys: TaskKeys) -> None:
        """Look after the task of ``settings``."""
        self._settings, self._world, self._task, self._keys = settings, world, settings.id, keys

    # -- the gate ----------------------------------------------------------------------------------------------------

    def may_open_round(self) -> bool:
        """Return whether the newest version is promoted."""
        return self._newest_status() == "promoted"

    def published(self, *, opened_on: int) -> tuple[int, bool]:
        """Return ``core.gates.published`` of this task."""
        return published(self._statuses(), opened_on=opened_on)

    def can_judge(self) -> bool:
        """Return whether the newest version waits for its verdict and was measured, as was the one before it."""
        return self._case() is not None

    def pass_verdict(self, *, restores: bool = True) -> bool:
        """Judge the newest version if it waits for that and was measured; return whether anything was decided.

        ``restores``: a refused version is followed by a copy of the one before it.
        """
        gate, case = self._settings.gate, self._case()
        if gate is None or case is None:
            return False
        new, old, figures = case
        is_good, why = judge(
            figures[new.version], figures[old.version], metric=gate.metric, margin=gate.margin, sets=gate.sets
        )
        verdict = self._standing(new.version, "promoted" if is_good else "rejected", why)
        if is_good or not restores:
            self._world.lifecycle.apply(self._change(standings=(verdict,)))
        event("version-promoted" if is_good else "version-rejected", task=self._task, version=new.version, why=why)
        if restores and not is_good:
            self._restore(old, why=f"version {new.version} was rejected", also=verdict)
        return True

    def _case(self) -> tuple[VersionRecord, VersionRecord, Mapping[int, Evaluation]] | None:
        if self._settings.gate is None or self._newest_status() != "candidate":
            return None
        store = self._world.store
        versions, standings = store.versions(self._task), self._world.lifecycle.standings(self._task)
        new, old = versions[-1], promoted_before(versions, standings, before=versions[-1].version)
        figures = store.evaluations(self._task)
        # What is missing is measured soon, or after the next start; or the operator promotes by hand.
        return (new, old, figures) if {new.version, old.version} <= figures.keys() else None

    # -- the operator ------------------------------------------------------------------------------------------------

    def obey(self, command: CommandRecord) -> str | None:
        """Carry a command out; return why not, or None."""
        known = self._world.store.task(self._task)
        why = refusal(
            command.verb,
            state=None if known is None else known.state,
            version=command.version,
            statuses=self._statuses() if known is not None else {},
        )
        if why is not None:
            return why
        if command.verb == "rollback" and STRATEGIES[self._settings.strategy].needs.plain_sgd:
            return f"strategy {self._settings.strategy}: devices keep the control variates of the versions left behind"
        match command.verb:
            case "pause":
                self._set_state("paused", command)
            case "resume":
                self._set_state("open", command)
            case "stop":
                self._set_state("stopped", command, withdrawn_round=self._open_round())
            case "rollback" | "promote":
                self._choose(command)
            case "rotate-key":
                return self._rotate_key(command)
            case "create":
                raise LocalProtocolError("a task that runs cannot be created")
        return None

    def _rotate_key(self, command: CommandRecord) -> str | None:
        if self._settings.privacy.draws_from_task_key:
            return "its sampling is drawn from the task's key, which therefore stays"
        self._keys.begin(self._world.store.latest_round(self._task).round + 1)
        self._world.lifecycle.apply(self._change(command=command.command))
        return None

    def _set_state(self, state: TaskState, command: CommandRecord, **facts: Any) -> None:  # noqa: ANN401 - a Change's
        self._world.lifecycle.apply(self._change(state=state, command=command.command, **facts))
        event("task-steered", task=self._task, verb=command.verb, state=state)

    def _choose(self, command: CommandRecord) -> None:
        versions = self._world.store.versions(self._task)
        chosen = next(one for one in versions if one.version == command.version)
        why = f"{command.verb} by the operator"
        if chosen.version == versions[-1].version:
            standing = self._standing(chosen.version, "promoted", why)
            self._world.lifecycle.apply(self._change(standings=(standing,), command=command.command))
            event("version-promoted", task=self._task, version=chosen.version, why=why)
        else:
            newest, also = versions[-1].version, None
            if self._statuses()[newest] == "candidate":  # nobody will judge it any more
                also = self._standing(newest, "rejected", f"{why} before its verdict")
            self._restore(chosen, why=why, also=also, command=command.command, withdrawn_round=self._open_round())

    # -- how ---------------------------------------------------------------------------------------------------------

    def _restore(self, old: VersionRecord, *, why: str, also: Standing | None = None, **facts: Any) -> None:  # noqa: ANN401 - a Change's
        newest = self._world.store.latest_version(self._task).version
        new = VersionRecord(
            task=self._task,
            version=newest + 1,
            round=None,
            state=old.state,
            n_updates=0,
            created_unix_s=self._world.clock.unix_s(),
        )
        standing = self._standing(new.version, "promoted", why, origin=old.version)
        standings = (standing,) if also is None else (also, standing)
        self._world.lifecycle.apply(
            self._change(version=new, copied=old.version, standings=standings, **facts),
        )
        event("version-restored", task=self._task, version=new.version, origin=old.version, why=why)

    def _standing(self, version: int, status: Any, why: str, origin: int | None = None) -> Standing:  # noqa: ANN401 - a Literal
        now = self._world.clock.unix_s()
        return Standing(task=self._task, version=version, status=status, why=why, origin=origin, decided_unix_s=now)

    def _change(self, **facts: Any) -> Change:  # noqa: ANN401 - a Change's
        return Change(task=self._task, unix_s=self._world.clock.unix_s(), **facts)

    def _statuses(self) -> dict[int, VersionStatus]:
        versions, standings = self._world.store.versions(self._task), self._world.lifecycle.standings(self._task)
        return statuses(versions, standings, has_gate=self._settings.gate is not None)

    def _newest_status(self) -> VersionStatus:
        known = self._statuses()
        return known[max(known)]

    def _open_round(self) -> int | None:
        latest = self._world.store.latest_round(self._task)
        return latest.round if latest.state in SUM_STATES.values() else None  # open, or at a step of its sum
