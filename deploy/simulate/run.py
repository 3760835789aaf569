"""Runs virtual devices against a service until its task has gone as far as was asked.

Laws: one thread, no sleep but the selector's; what a device sends is signed by its own key, what it hears is believed
only with the service's signature; the journal is the only result that a checker needs. Memory: O(devices), and the
adapter of each device that trains.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deploy.simulate.chunks import Cutter
from deploy.simulate.deltas import DeltaPool
from deploy.simulate.virtual_device import Surroundings, VirtualDevice
from deploy.simulate.wire import Wire
from protocol import topics
from protocol.errors import EdgefoldError
from protocol.messages import Announce, Decline, Receipt, Update, Work, kind_of, unpack_envelope
from protocol.signing import open_envelope, sign
from protocol.uploads import CHUNK_BYTES, Chunk, Upload, Uploaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.simulate.journal import Entry, Journal
    from deploy.simulate.profile import Profile
    from deploy.simulate.service import Service
    from deploy.simulate.wire import Connection
    from protocol.messages import Join
    from protocol.signing import SigningKey

__all__ = ["Counts", "Simulation"]

_POLL_S: Final = 0.05


@dataclass(slots=True, kw_only=True)
class Counts:
    """What happened so far."""

    n_sent: int = 0  # updates, each once
    n_accepted: int = 0
    n_refused: int = 0
    n_chunks: int = 0  # of large updates, repeated ones too
    bytes_up: int = 0  # payloads, repeated ones too
    bytes_down: int = 0
    n_unreadable: int = 0  # not signed by the service, or not of this protocol


class Simulation:
    """A running fleet of virtual devices."""

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        service: Service,
        identities: dict[str, SigningKey],
        journal: Journal,
        *,
        profile: Profile,
        seed: int,
        n_connections: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Make the devices; ``step`` connects them, each by itself or, if asked, over ``n_connections``."""
        self._cutter = Cutter(chunk_bytes)
        self.counts = Counts()
        self.announced: Announce | None = None
        self.given: set[int] = set()  # versions that devices were told of or given
        self._service, self._keys, self._journal, self._seed = service, identities, journal, seed
        self._pool: DeltaPool | None = None
        self._due: list[tuple[float, str]] = []
        self._last_announce: tuple[bytes, Announce] | None = None
        around = Surroundings(
            fleet=service.fleet,
            pools=self._deltas,
            write=self._write,
            n_params={service.task: service.n_params},
        )
        self.devices = {
            name: VirtualDevice(name, profile.group_of(i), around, seed=seed) for i, name in enumerate(identities)
        }
        self.wire = Wire(service.broker, self._hear)
        self._at: dict[str, Connection] = {}
        self._on: dict[Connection, list[str]] = {}
        names = list(identities)
        n_lines = min(len(names), n_connections or len(names))
        for i in range(n_lines):
            self._connect(names[i::n_lines])

    def run(self, *, until: Callable[[], bool], deadline_s: float, each: Callable[[], object] = bool) -> bool:
        """Go on until ``until``; ``each`` is called again and again. Return False if ``deadline_s`` passed first."""
        end_s = time.monotonic() + deadline_s
        while not until():
            if time.monotonic() >= end_s:
                return False
            self.step()
            each()
        self._journal.flush()
        return True

    def step(self) -> None:
        """Move bytes, then let those act whose time has come."""
        now_s = time.monotonic()
        wait_s = min(_POLL_S, max(0.0, self._due[0][0] - now_s)) if self._due else _POLL_S
        self.wire.poll(wait_s)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, name = heapq.heappop(self._due)
            device = self.devices[name]
            if device.due_s != due_s:
                continue  # it has changed its mind since
            body = device.wake(now_s)
            if body is not None:
                self._send(name, body)
            self._plan(device)

    @property
    def is_quiet(self) -> bool:
        """Whether no device trains or waits for a receipt."""
        return not any(device.is_busy for device in self.devices.values())

    def close(self) -> None:
        """Leave the broker."""
        self.wire.close()

    def _connect(self, names: Sequence[str]) -> None:
        fleet = self._service.fleet
        filters = [topics.announce(fleet, self._service.task), *(topics.my_down(fleet, name) for name in names)]
        connection = self.wire.add(names[0], filters)
        self._on[connection] = list(names)
        self._at.update(dict.fromkeys(names, connection))

    def _send(self, name: str, body: Join | Update | Upload | Chunk) -> None:
        payload = sign(body, fleet=self._service.fleet, sender=name, key=self._keys[name])
        if isinstance(body, Update) and (upload := self._cutter.cut(name, body, payload)) is not None:
            return self._send(name, upload)
        if self._at[name].publish(topics.up(self._service.fleet, name, kind_of(body)), payload):
            self.counts.bytes_up += len(payload)
            self.counts.n_chunks += isinstance(body, Chunk)
        return None

    def _hear(self, connection: Connection, topic: str, payload: bytes) -> None:
        self.counts.bytes_down += len(payload)
        name = topics.device_of(topic)
        if name is not None and name not in self.devices:
            return
        try:
            body = self._open(payload)
        except EdgefoldError:
            self.counts.n_unreadable += 1
            return
        if isinstance(body, Uploaded):
            for chunk in self._cutter.missing(name or "", body):
                self._send(name or "", chunk)
            return
        if isinstance(body, (Announce, Work)):
            self.given.add(body.version)
        now_s = time.monotonic()
        for one in self._on[connection] if name is None else [name]:
            device = self.devices[one]
            device.hear(body, now_s)
            self._plan(device)

    def _open(self, payload: bytes) -> Announce | Work | Decline | Receipt | Uploaded:
        if self._last_announce is not None and self._last_announce[0] == payload:
            return self._last_announce[1]  # 10,000 copies of one announcement, one signature
        body = open_envelope(unpack_envelope(payload), fleet=self._service.fleet, key=self._service.key)
        if isinstance(body, Announce):
            self.announced, self._last_announce = body, (payload, body)
        if isinstance(body, (Announce, Work, Decline, Receipt, Uploaded)):
            return body
        raise EdgefoldError("virtual devices make no secure sums")

    def _plan(self, device: VirtualDevice) -> None:
        if device.due_s is not None:
            heapq.heappush(self._due, (device.due_s, device.name))

    def _deltas(self, work: Work) -> DeltaPool:
        if self._pool is None:
            self._pool = DeltaPool(work.plan, n_params=self._service.n_params, seed=self._seed)
        return self._pool

    def _write(self, entry: Entry) -> None:
        self._journal.write(entry)
        match entry.act:
            case "sent":
                self.counts.n_sent += 1
            case "accepted":
                self.counts.n_accepted += 1
            case "refused":
                self.counts.n_refused += 1
