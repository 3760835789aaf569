"""What the service has announced: the latest of each task, and for which of them this device has the bundle.

Law: an announcement whose bundle is missing is kept, so that the device joins once the bundle is here. In memory alone:
announcements are retained messages, which come again after a restart. Whether one is news, ``durable_session`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.core.session import Announced
from host.logs import event as log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edge_agent.core.session import Job
    from protocol.messages import Announce

__all__ = ["Announcements"]


class Announcements:
    """The tasks that this device knows of."""

    def __init__(self, bundles: Mapping[str, Path]) -> None:
        """Begin with none; ``bundles`` has the folders of the bundles that are here, and others change it."""
        self._bundles = bundles
        self._latest: dict[str, Announce] = {}

    @property
    def latest(self) -> Mapping[str, Announce]:
        """The latest announcement of each task."""
        return self._latest

    def take(self, announce: Announce) -> Announced | None:
        """Keep ``announce`` and return what it means to the session: nothing while its bundle is missing."""
        known = self._latest.get(announce.task)
        self._latest[announce.task] = announce
        if announce.state != "open" or announce.bundle_id in self._bundles:
            return _announced_by(announce)
        if known != announce:
            log("bundle-missing", task=announce.task, bundle_id=announce.bundle_id)
        return None

    def of_bundles_here(self) -> dict[str, Announce]:
        """Return the latest of each task whose bundle is here."""
        return {task: one for task, one in self._latest.items() if one.bundle_id in self._bundles}

    def as_events(self) -> Iterator[Announced]:
        """Yield what the announcements whose bundle is here mean to the session."""
        return map(_announced_by, self.of_bundles_here().values())

    def needed_bundles(self) -> set[str]:
        """Return the ids of the bundles of open tasks."""
        return {one.bundle_id for one in self._latest.values() if one.state == "open"}

    def spread_s(self, job: Job) -> float:
        """Return the time over which devices are to spread their joins for ``job``, in seconds."""
        announce = self._latest.get(job.task)  # none after a restart: then nobody else calls at this moment
        return 0.0 if announce is None or announce.round != job.round else announce.spread_s or 0.0


def _announced_by(announce: Announce) -> Announced:
    return Announced(
        task=announce.task,
        round=announce.round,
        bundle_id=announce.bundle_id,
        is_open=announce.state == "open",
        seal_adapter=announce.seal_adapter or False,
        oldest_round=announce.oldest_round,
    )
