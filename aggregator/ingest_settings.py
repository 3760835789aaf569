"""``[ingest]``: who takes updates in beside the service."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

from aggregator.fold_pool import MAX_WORKERS
from protocol import topics
from protocol.fields import FieldError, Length, Name, Range

__all__ = ["LOCAL", "SERVICE_KINDS", "IngestSettings", "client_name", "service_filters", "worker_filter"]

LOCAL: Final = "local-"  # names of the workers that the service starts
# What devices send beside updates: the service's, with workers or without.
SERVICE_KINDS: Final = ("join", "renew", "sum-step", "upload", "chunk", "fetch")
_CLIENT: Final = "_ingest-"  # no device's name begins with "_", so no device can be enrolled as a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """Without any worker the service takes updates in by itself, on one thread.

    Attributes:
        workers: processes on the service's machine, which it starts and starts again.
        external: names of workers that others start: ``edgefold serve ingest --name NAME``.
        max_staged: updates that may wait for the service's decision; with more, workers take none.
    """

    workers: Annotated[int, Range(0, MAX_WORKERS)] = 0
    external: Annotated[tuple[Annotated[Name, Length(1, 32)], ...], Length(0, MAX_WORKERS)] = ()
    max_staged: Annotated[int, Range(1, 10**6)] = 1000  # a few seconds of the service's work

    def __post_init__(self) -> None:
        """Refuse names that mean two workers."""
        if len(set(self.external)) < len(self.external):
            raise FieldError("ingest.external: a name occurs twice")
        taken = [name for name in self.external if name.startswith(LOCAL)]
        if taken:
            raise FieldError(f"ingest.external: {taken[0]}: names with {LOCAL} are the service's own workers'")

    @property
    def local(self) -> tuple[str, ...]:
        """The names of the service's own workers."""
        return tuple(f"{LOCAL}{at}" for at in range(1, self.workers + 1))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all workers."""
        return (*self.local, *self.external)


def client_name(worker: str) -> str:
    """Return a worker's name on the broker: of its session, its certificate and its access list."""
    return f"{_CLIENT}{worker}"


def worker_filter(fleet: str, state_id: str) -> str:
    """Return what all workers of a fleet subscribe to: each update goes to one of them.

    The group's name follows from the state's random id, which no device can read: Mosquitto's access lists do not look
    at who joins a group, and would throw away what comes to a member that may not read it.
    """
    group = hashlib.sha256(f"edgefold ingest {state_id}".encode()).hexdigest()[:32]
    return topics.shared(group, topics.up(fleet, "+", "update"))


def service_filters(fleet: str, *, has_workers: bool) -> tuple[list[str], list[str]]:
    """Return what the service subscribes to, and what its session may have from a time with other settings."""
    everything, rest = [topics.all_up(fleet)], [topics.up(fleet, "+", kind) for kind in SERVICE_KINDS]
    return (rest, everything) if has_workers else (everything, rest)
