"""Asks for the newest version where predictions are wanted and others trained it, and keeps it for them.

Laws: nothing is asked while this device is in a round of the task, whose work brings a version, nor more often than the
owner says, and at a random moment, so that a fleet does not ask at once; a version that is older than what was heard
is not believed; a sealed adapter is opened by a key of this process alone. A service that does not know the question is
silent, and is asked again after the same while. Nothing that a round trains on is touched.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from edge_agent.adapter_seal import AdapterSeal
from edge_agent.adapters.served_work import keep_fetched, served_version
from host.logs import event as log
from protocol.errors import RemoteProtocolError
from protocol.messages import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.core.heard import Heard
    from protocol.messages import Announce, Latest

__all__ = ["LatestVersions", "latest_versions"]

_LOOK_EVERY_S: Final = 30.0
_FIRST_WAIT_S: Final = 60.0  # at most: what was announced just now may come as work


class LatestVersions:
    """What this device serves of each announced task, kept new."""

    def __init__(self, folder: Path, *, fleet: str, device: str, every_s: float, say: Callable[[Fetch], bool]) -> None:
        """Ask by ``say``, at most each ``every_s`` for a task; keep versions in the agent's ``folder``."""
        self._folder, self._every_s, self._say = folder, every_s, say
        self._seal = AdapterSeal(fleet=fleet, device=device)
        self._looked_s = float("-inf")
        self._due_s: dict[str, float] = {}
        self._random = random.Random()  # noqa: S311 - spreads questions, guards nothing

    def turn(self, now_s: float, announced: Mapping[str, Announce], *, busy_with: str | None) -> None:
        """Ask for what is newer and due.

        Args:
            now_s: seconds that only go up.
            announced: the latest of each task whose bundle is here.
            busy_with: the task of this device's round.
        """
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for task, announce in announced.items():
            if task == busy_with:
                continue
            have = served_version(self._folder, task, announce.bundle_id)
            if announce.version <= have:
                self._due_s.pop(task, None)
                continue
            due_s = self._due_s.setdefault(task, now_s + self._random.uniform(0, min(_FIRST_WAIT_S, self._every_s)))
            if now_s >= due_s:
                key = self._seal.public(task, 0) if announce.seal_adapter else None
                if self._say(Fetch(task=task, bundle_id=announce.bundle_id, version=have, seal_key=key)):
                    self._due_s[task] = now_s + self._random.uniform(self._every_s / 2, self._every_s)

    def take(self, latest: Latest, heard: Mapping[str, Heard], announced: Mapping[str, Announce]) -> None:
        """Keep what the service said is the newest.

        Raises:
            RemoteProtocolError: ``wrong-task``, ``wrong-bundle`` or ``wrong-version``: of no announced task, or older
                than what was heard (whoever delivered it).
            SealError: sealed to another key.
            StorageError: it cannot be kept.
        """
        announce = announced.get(latest.task)
        if announce is None:
            raise RemoteProtocolError(f"task {latest.task} is not announced", reason="wrong-task")
        if latest.bundle_id != announce.bundle_id:
            raise RemoteProtocolError("a version of another bundle than the announced one", reason="wrong-bundle")
        have = served_version(self._folder, latest.task, latest.bundle_id)
        if latest.adapter is None or latest.version == have:
            return
        known = heard.get(latest.task)
        if latest.version < max(have, 0 if known is None else known.version):
            raise RemoteProtocolError(f"version {latest.version} is older than what is known", reason="wrong-version")
        if (announce.seal_adapter or False) != (latest.adapter_sealed or False):
            raise RemoteProtocolError("the task seals its adapter, this one is not", reason="bad-seal")
        keep_fetched(self._folder, latest, self._seal.open_latest(latest))
        self._seal.forget()
        self._due_s.pop(latest.task, None)
        log("version-fetched", task=latest.task, version=latest.version)


def latest_versions(config: AgentConfig, folder: Path, *, say: Callable[[Fetch], bool]) -> LatestVersions | None:
    """Return what keeps the served versions new, None where nobody asks the model or the owner wants none fetched."""
    every_s, device = config.predict.fetch_every_s, config.device
    if every_s is None or not config.predicts:
        return None
    return LatestVersions(folder, fleet=device.fleet, device=device.id, every_s=every_s, say=say)
