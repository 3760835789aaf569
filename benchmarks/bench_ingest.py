"""How many updates a second does a service take, by itself and with ingest workers?

The real wire: broker, PostgreSQL, service and workers as processes of this machine, blobs in a folder or in an S3
server. In each round every device joins and makes its update first; then the clock starts, all updates are sent in a
burst over a few connections, and it stops with the last receipt, so that a second holds signatures, seals, decoding,
durable bytes, rows and receipts, and no training. The best round of ``--repeats`` after a warm one counts. Sender,
broker and database share the cores with service and workers: on few cores that is the bound. What does not depend on
it is the processor time that the service, one thread, spends for a whole update, its join and its part of the fold
included: that thread's is the ceiling, whatever the cores.
``--devices 20 --sizes 2000 --workers 0,1 --stores files --repeats 1`` is a quick look.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.record import Benchmark
from deploy.simulate.deltas import DeltaPool
from deploy.simulate.identities import make_identities, register
from deploy.simulate.local_service import LocalSpec, local_fleet
from deploy.simulate.profile import Group, Profile
from deploy.simulate.service import read_service
from deploy.simulate.storage_servers import started_storage
from deploy.simulate.wire import Wire
from protocol import topics
from protocol.errors import EngineError
from protocol.messages import (
    Announce,
    Join,
    Receipt,
    Update,
    UpdateContent,
    Work,
    kind_of,
    pack_content,
    unpack_envelope,
)
from protocol.sealing import binding, seal
from protocol.signing import open_envelope, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local import LocalFleet
    from deploy.simulate.service import Service
    from deploy.simulate.wire import Connection
    from protocol.messages import Body
    from protocol.signing import SigningKey

SIZES: Final = "75268"
WORKERS: Final = "0,1,2"
STORES: Final = "files,objects"  # where the blobs are
DEVICES: Final = 300
REPEATS: Final = 3
CONNECTIONS: Final = 8
DEADLINE_S: Final = 300.0
SEED: Final = 5


class Burst:
    """All devices of one service, on a few connections; rounds are played by ``play``."""

    def __init__(self, service: Service, keys: dict[str, SigningKey]) -> None:
        """Connect."""
        self._service, self._keys = service, keys
        self._announced: Announce | None = None
        self._works: dict[str, Work] = {}
        self._waiting: set[bytes] = set()
        self._pool: DeltaPool | None = None
        self.wire = Wire(service.broker, self._hear)
        self._at: dict[str, Connection] = {}
        names = list(keys)
        for at in range(min(CONNECTIONS, len(names))):
            mine = names[at::CONNECTIONS]
            filters = [topics.announce(service.fleet, service.task), *(topics.my_down(service.fleet, n) for n in mine)]
            self._at.update(dict.fromkeys(mine, self.wire.add(f"burst-{at}", filters)))

    def play(self, fleet: LocalFleet) -> float:
        """Play the next round and return the seconds from the first update sent to the last receipt."""
        done = 0 if self._announced is None else self._announced.round
        if self._works:
            self._until(fleet, lambda: self._announced is not None and self._announced.round > done)
        self._until(fleet, lambda: self._announced is not None and self.wire.n_up == len(self.wire.connections))
        announced = self._announced
        if announced is None:
            raise EngineError("nothing was announced")
        self._works = {}
        for name in self._keys:
            join = Join(task=announced.task, round=announced.round, bundle_id=announced.bundle_id)
            self._send(name, join)
        self._until(fleet, lambda: len(self._works) == len(self._keys))
        messages = [(name, self._update(name, work)) for name, work in self._works.items()]
        self._waiting = {update.update_id for _, update in messages}
        packed = [(name, self._sign(name, update)) for name, update in messages]
        started = time.perf_counter()
        for name, payload in packed:
            self._at[name].publish(topics.up(self._service.fleet, name, "update"), payload)
        self._until(fleet, lambda: not self._waiting)
        return time.perf_counter() - started

    def close(self) -> None:
        """Leave the broker."""
        self.wire.close()

    def _until(self, fleet: LocalFleet, is_so: Callable[[], bool]) -> None:
        end_s, look_s = time.monotonic() + DEADLINE_S, 0.0
        while not is_so():
            self.wire.poll(0.02)
            now_s = time.monotonic()
            if now_s >= end_s:
                raise EngineError(f"not within {DEADLINE_S:.0f} s: {len(self._works)} works, {len(self._waiting)} left")
            if now_s >= look_s:
                look_s = now_s + 1.0
                fleet.poll()

    def _hear(self, _connection: Connection, topic: str, payload: bytes) -> None:
        body = open_envelope(unpack_envelope(payload), fleet=self._service.fleet, key=self._service.key)
        match body:
            case Announce():
                self._announced = body
            case Work():
                self._works[str(topics.device_of(topic))] = body
            case Receipt(status="accepted", update_id=update_id):
                self._waiting.discard(update_id)
            case _:
                raise EngineError(f"unexpected: {body!r:.200}")

    def _update(self, name: str, work: Work) -> Update:
        if self._pool is None:
            self._pool = DeltaPool(work.plan, n_params=self._service.n_params, seed=SEED)
        content = UpdateContent(n_examples=10, n_steps=1, loss=0.5, train_s=0.1, delta=self._pool.encoded(0))
        facts: dict[str, Any] = {"task": work.task, "version": work.version, "bundle_id": work.bundle_id}
        facts["update_id"] = os.urandom(16)
        info = binding(fleet=self._service.fleet, device=name, round_=work.round, **facts)
        return Update(
            **facts, round=work.round, sealed=seal(pack_content(content), public_raw=work.task_key, info=info)
        )

    def _sign(self, name: str, body: Body) -> bytes:
        return sign(body, fleet=self._service.fleet, sender=name, key=self._keys[name])

    def _send(self, name: str, body: Body) -> None:
        self._at[name].publish(topics.up(self._service.fleet, name, kind_of(body)), self._sign(name, body))


def measure(folder: Path, *, size: int, devices: int, workers: int, store: str, repeats: int) -> dict[str, float]:
    """Return updates a second and the service's peak of memory."""
    profile = Profile(group=(Group(name="burst", train_s=0.1),))
    with started_storage("servers", folder) as (settings, _):
        chosen = dict(settings) if store == "objects" else {"database": settings["database"]}
        spec = LocalSpec(
            folder=folder,
            n_devices=devices,
            profile=profile,
            n_params=size,
            rounds=repeats + 1,
            seed=SEED,
            cohort=devices,
            deadline_s=DEADLINE_S,
            keep_updates=False,
            service_settings=chosen,
            more_tables={"ingest": {"workers": workers}} if workers else {},
        )
        fleet = local_fleet(spec)
        service = read_service(fleet.aggregator_config)
        keys = make_identities(folder / "devices.secret", devices)
        register(service.registry, keys)
        with fleet, closing(Burst(service, keys)) as burst:
            burst.play(fleet)
            before = _cpu_s(fleet)
            seconds = [burst.play(fleet) for _ in range(repeats)]
            after = _cpu_s(fleet)
            peak = fleet.processes["aggregator"].peak_resident_bytes
    cpu = {f"{name}_cpu_ms_per_update": 1e3 * (after[name] - before[name]) / devices / repeats for name in after}
    return {"updates_per_s": devices / min(seconds), "service_peak_mb": peak / 1e6, **cpu}


def _cpu_s(fleet: LocalFleet) -> dict[str, float]:
    """Return the processor seconds of the service, joins and folds included, and of its workers so far."""
    service = psutil.Process(fleet.processes["aggregator"].pid)
    workers = [one for one in service.children() if "ingest" in one.cmdline()]
    own = service.cpu_times()
    spent = {"service": own.user + own.system}
    if workers:
        spent["workers"] = sum(one.cpu_times().user + one.cpu_times().system for one in workers)
    return spent


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES, help="parameters")
    parser.add_argument("--workers", default=WORKERS)
    parser.add_argument("--stores", default=STORES, help="where blobs are: files (a folder), objects (an S3 server)")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    if unknown := set(options.stores.split(",")) - set(STORES.split(",")):
        parser.error(f"--stores: {', '.join(sorted(unknown))}: known are {STORES}")
    bench = Benchmark("ingest", "How many updates a second does a service take, with and without ingest workers?")
    rows: dict[str, dict[int, float]] = {}
    for store in options.stores.split(","):
        for size in map(int, options.sizes.split(",")):
            row = rows.setdefault(f"{store}, {size:,}", {})
            for workers in map(int, options.workers.split(",")):
                with tempfile.TemporaryDirectory(prefix="edgefold-ingest-") as folder:
                    found = measure(
                        Path(folder),
                        size=size,
                        devices=options.devices,
                        workers=workers,
                        store=store,
                        repeats=options.repeats,
                    )
                row[workers] = found["updates_per_s"]
                for name, value in found.items():
                    bench.summary[f"{name}_{store}_{size}_with_{workers}"] = value
                if 0 in row and workers:
                    bench.summary[f"with_{workers}_of_none_ratio_{store}_{size}"] = row[workers] / row[0]
    bench.details["devices"] = options.devices
    bench.finish(lambda figure: _draw(figure, rows))


def _draw(figure: Any, rows: dict[str, dict[int, float]]) -> None:  # noqa: ANN401 - matplotlib
    axes = figure.subplots(1, len(rows), squeeze=False)[0]
    for at, (name, row) in zip(axes, rows.items(), strict=True):
        at.bar([f"{workers} workers" for workers in row], list(row.values()))
        at.set_title(name)
        at.set_ylabel("updates a second")


if __name__ == "__main__":
    main()
