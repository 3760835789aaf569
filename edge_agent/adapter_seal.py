"""The key that a device makes for one round, so that the service can seal the adapter to it.

Laws: the key lives in this process's memory alone, from the first join of a round until its work is open: whoever
takes the disk later, or records the traffic, reads no adapter (forward secrecy). After a restart the device asks again
with another key, and work for the old one does not open.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.errors import SealError
from protocol.sealing import TaskKey, adapter_binding

if TYPE_CHECKING:
    from protocol.messages import Latest, Work

__all__ = ["AdapterSeal"]


class AdapterSeal:
    """Makes, uses and forgets the key of the present round."""

    def __init__(self, *, fleet: str, device: str) -> None:
        """Begin without a key."""
        self._fleet, self._device = fleet, device
        self._of: tuple[str, int] | None = None
        self._key: TaskKey | None = None

    def public(self, task: str, round_: int) -> bytes:
        """Return the public key for a round: the same for each of its joins."""
        if self._key is None or self._of != (task, round_):
            self._key, self._of = TaskKey.generate(), (task, round_)
        return self._key.public_raw

    def open(self, work: Work) -> Work:
        """Return the work with its adapter readable.

        Raises:
            SealError: sealed to another key, or for another device, round, version or task (the service's fault, or
                work for a join of before a restart).
        """
        if not work.adapter_sealed:
            return work
        if self._key is None or self._of != (work.task, work.round):
            raise SealError("the adapter is sealed to no key of this process")
        info = adapter_binding(
            fleet=self._fleet,
            task=work.task,
            bundle_id=work.bundle_id,
            round_=work.round,
            version=work.version,
            device=self._device,
        )
        opened = self._key.open(work.adapter, info=info)
        if not opened:
            raise SealError("the sealed adapter is empty")
        return replace(work, adapter=opened, adapter_sealed=None)

    def open_latest(self, latest: Latest) -> bytes:
        """Return a fetched version's adapter, readable; its key was made for round 0.

        Raises:
            SealError: as for ``open``.
        """
        adapter = latest.adapter or b""
        if not latest.adapter_sealed:
            return adapter
        if self._key is None or self._of != (latest.task, 0):
            raise SealError("the adapter is sealed to no key of this process")
        info = adapter_binding(
            fleet=self._fleet,
            task=latest.task,
            bundle_id=latest.bundle_id,
            round_=0,
            version=latest.version,
            device=self._device,
        )
        return self._key.open(adapter, info=info)

    def forget(self) -> None:
        """Drop the key: the work is open and kept."""
        self._key = self._of = None
