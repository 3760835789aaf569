"""kill -9 of a service and its storage at random moments while virtual devices work: ``make test-kill``.

Laws: a kill comes a random time after its victim was last seen to work, so that it hits starts, rounds and folds alike;
the seed is printed and gives the same victims and waits (what they hit, the machine decides); in the end the task is
paused, so that every update with a receipt has its fold, and nothing is forgiven. With a gate versions are really
measured, and its verdicts are checked by measuring again where nobody is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from deploy.simulate.audit import audit, refolded
from deploy.simulate.gated_task import write_gated_task
from deploy.simulate.identities import make_identities, register
from deploy.simulate.journal import Journal
from deploy.simulate.local_service import LocalSpec, local_fleet, plan_of
from deploy.simulate.processes import children, command_of
from deploy.simulate.profile import Group, Profile
from deploy.simulate.run import Simulation
from deploy.simulate.service import ask, read_service
from deploy.simulate.storage_servers import StorageKind, Victim, started_storage
from deploy.simulate.verdicts import check_verdicts, measured_by
from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local import BrokerKind, LocalFleet
    from deploy.simulate.gated_task import GatedTask
    from deploy.simulate.service import Service
    from deploy.simulate.verdicts import Verdicts

__all__ = ["KillPlan", "run_kill_matrix"]

# Short trainings: rounds of about a second, so that kills fall into all of their phases.
_PROFILE: Final = Profile(group=(Group(name="quick", train_s=0.3, spread=0.9),))
_LONGEST_WAIT_S: Final = 2.5  # after a victim works again; a round takes less
_LONGEST_WAIT_WITH_GATE_S: Final = 8.0  # a measurement starts an interpreter and a runtime
_VICTIMS: Final = ("aggregator", "broker", "both")
_WEIGHTS: Final = (6, 3, 1)
_WEIGHT_OF_STORAGE: Final = 3  # of each, database and objects, where they are servers
_STORAGE_AWAY_S: Final = 3.0  # at most
_SETTLE_S: Final = 240.0  # after the last kill: devices send again after at most 30 s
_ENDLESS: Final = 10**6  # rounds: the kills end the run


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KillPlan:
    """What to do to whom."""

    folder: Path
    kills: int = 200
    seed: int = 0
    devices: int = 12
    n_params: int = 20_000
    chunk_bytes: int = 8192  # the updates of some 20 kB go in three
    is_async: bool = False
    broker: BrokerKind = "auto"
    deadline_s: float = 3600.0
    storage: StorageKind = "files"
    fold: Literal["local", "workers"] = "local"
    ingest: int = 0  # workers that take updates in
    gated: GatedTask | None = None  # its bundle, which can be measured, in the place of a random one


class _Killer:
    """Kills on time; ``tick`` is called again and again."""

    def __init__(self, fleet: LocalFleet, plan: KillPlan, storage: Mapping[str, Victim]) -> None:
        self.killed: Counter[str] = Counter()
        self.rounds_folded = 0
        self.n_before_verdict = 0  # kills while a folded version waited for its verdict
        self._is_waiting_for_verdict = False
        self._fleet, self._plan = fleet, plan
        self._random = random.Random(plan.seed)  # noqa: S311 - when to kill
        self._next_s: float | None = None
        self._waiting_for = {"aggregator", "broker"}
        self._storage = storage

    @property
    def n_killed(self) -> int:
        return sum(self.killed.values())

    def tick(self) -> None:
        for happened in self._fleet.poll():
            self.rounds_folded += happened.name == "version-folded"
            if happened.name in {"version-folded", "version-promoted", "version-rejected"}:
                self._is_waiting_for_verdict = happened.name == "version-folded" and self._plan.gated is not None
            if happened.name == "broker-started":
                self._waiting_for.discard("broker")
            elif happened.name == "service-ready":
                self._waiting_for.discard("aggregator")
        now_s = time.monotonic()
        if self.n_killed >= self._plan.kills:
            return
        if self._next_s is None and not self._waiting_for:
            longest_s = _LONGEST_WAIT_S if self._plan.gated is None else _LONGEST_WAIT_WITH_GATE_S
            self._next_s = now_s + self._random.uniform(0, longest_s)
        if self._next_s is not None and now_s >= self._next_s:
            weights = [*_WEIGHTS, *(_WEIGHT_OF_STORAGE for _ in self._storage)]
            (victim,) = self._random.choices([*_VICTIMS, *self._storage], weights)
            self.killed[victim] += 1
            self.n_before_verdict += self._is_waiting_for_verdict
            self._next_s = None
            if victim in self._storage:
                self._storage[victim].kill()
                time.sleep(self._random.uniform(0, _STORAGE_AWAY_S))  # the devices' own time passes, too
                self._storage[victim].start()
                return
            self._waiting_for = {"aggregator", "broker"} if victim == "both" else {victim}
            for name in self._waiting_for:
                self._fleet.kill(name)


def run_kill_matrix(plan: KillPlan) -> dict[str, Any]:
    """Kill ``plan.kills`` times and return what was found; ``is_good`` is the verdict.

    Raises:
        EngineError: a process ended by itself, or the devices did not come to rest in time.
    """
    with started_storage(plan.storage, plan.folder) as (settings, storage):
        return _run_with(plan, settings, storage)


class _Children:
    """Processes that the aggregator starts and replaces by itself."""

    def __init__(self, fleet: LocalFleet, command: str, *, one_by_one: bool) -> None:
        self._fleet, self._command, self._one_by_one = fleet, command, one_by_one
        self._n_kills = 0

    def kill(self) -> None:
        """Kill all of them or, one by one, another each time and every third time all."""
        pid = self._fleet.processes["aggregator"].pid
        alive = [] if pid is None else sorted(one for one in children(pid) if self._command in command_of(one))
        self._n_kills += 1
        if self._one_by_one and self._n_kills % 3 and alive:
            alive = [alive[self._n_kills % len(alive)]]
        for one in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def start(self) -> None:
        """Do nothing: the aggregator does."""


def _run_with(plan: KillPlan, settings: Mapping[str, Any], storage: Mapping[str, Victim]) -> dict[str, Any]:
    gated = plan.gated
    spec = LocalSpec(
        folder=plan.folder,
        n_devices=plan.devices,
        profile=_PROFILE,
        n_params=plan.n_params,
        rounds=_ENDLESS,
        seed=plan.seed,
        broker=plan.broker,
        is_async=plan.is_async,
        service_settings=settings,
        more_tables={"fold": {"engine": plan.fold, "workers": 2}, "ingest": {"workers": plan.ingest}},
        task_settings={} if gated is None else gated.settings,
        bundle=None if gated is None else gated.bundle,
    )
    fleet = local_fleet(spec)
    victims = dict(storage)
    if plan.fold == "workers":
        victims["fold workers"] = _Children(fleet, "aggregator.fold_worker", one_by_one=False)
    if plan.ingest:
        victims["ingest workers"] = _Children(fleet, "serve ingest", one_by_one=True)
    service = read_service(fleet.aggregator_config)
    identities = make_identities(plan.folder / "devices.secret", plan.devices)
    register(service.registry, identities)
    journal_path, started = plan.folder / "journal.jsonl", time.monotonic()
    with fleet, Journal(journal_path) as journal:
        killer = _Killer(fleet, plan, victims)
        killer._waiting_for.clear()  # noqa: SLF001 - entering the fleet waited for both
        simulation = Simulation(
            service, identities, journal, profile=_PROFILE, seed=plan.seed, chunk_bytes=plan.chunk_bytes
        )
        _until(simulation, killer, lambda: killer.n_killed >= plan.kills, deadline_s=plan.deadline_s)
        end_round = killer.rounds_folded + 2  # the service works again, and folds
        _until(simulation, killer, lambda: killer.rounds_folded >= end_round, deadline_s=_SETTLE_S)
        ask(service, "pause")
        _until(simulation, killer, lambda: _is_at_rest(simulation), deadline_s=_SETTLE_S)
        counts = simulation.counts
        simulation.close()
    verified = ask(service, "verify")
    found = audit(service, journal_path, seed=plan.seed, plan=plan_of())
    verdicts = None if gated is None else _verdicts(gated, service, journal_path, plan, given=simulation.given)
    return {
        "mode": "async" if plan.is_async else "sync",
        "storage": plan.storage,
        "fold": plan.fold,
        "ingest": plan.ingest,
        "seed": plan.seed,
        "kills": dict(killer.killed),
        "seconds": time.monotonic() - started,
        **dataclasses.asdict(counts),
        **dataclasses.asdict(found),
        **({} if verdicts is None else {"gate": _facts_of(verdicts, killer)}),
        "is_verified": verified["ok"],
        "is_good": found.is_good and verified["ok"] and (verdicts is None or verdicts.is_good),
    }


def _verdicts(gated: GatedTask, service: Service, journal: Path, plan: KillPlan, *, given: set[int]) -> Verdicts:
    measure, losses, versions = measured_by(gated), dict[int, float](), list[dict[str, Any]]()
    by_bytes: dict[bytes, float] = {}  # what was put back is not measured again
    for version, adapter in refolded(service, journal, seed=plan.seed, plan=plan_of()):
        key = adapter.tobytes()
        if key not in by_bytes:
            by_bytes[key] = measure(adapter)
        losses[version["version"]] = by_bytes[key]
        versions.append(version)
    return check_verdicts(versions, losses, given=given)


def _facts_of(verdicts: Verdicts, killer: _Killer) -> dict[str, Any]:
    return {"kills_before_verdict": killer.n_before_verdict, **dataclasses.asdict(verdicts)}


def _until(simulation: Simulation, killer: _Killer, is_over: Any, *, deadline_s: float) -> None:  # noqa: ANN401 - a call
    if not simulation.run(until=is_over, deadline_s=deadline_s, each=killer.tick):
        raise EngineError(f"not at rest after {deadline_s:.0f} s: {killer.n_killed} kills, {simulation.counts}")


def _is_at_rest(simulation: Simulation) -> bool:
    return simulation.announced is not None and simulation.announced.state == "paused" and simulation.is_quiet


def main() -> int:
    """Run the kill matrix from a command line; 0 if nothing was lost and nothing counted twice."""
    parser = argparse.ArgumentParser(prog="kill_matrix", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, help="default: a new one, printed")
    parser.add_argument("--devices", type=int, default=12)
    parser.add_argument("--mode", choices=["both", "sync", "async"], default="both", help="half of the kills each")
    parser.add_argument(
        "--chunk-kb", type=int, help="updates above it go in chunks: 8, with --gate 1, with --ingest 256: none do"
    )
    parser.add_argument("--broker", choices=["auto", "mosquitto", "embedded"], default="auto")
    parser.add_argument("--storage", choices=["files", "servers"], default="files", help="servers: PostgreSQL and S3")
    parser.add_argument("--fold", choices=["local", "workers"], default="local", help="who adds, and is killed too")
    parser.add_argument("--ingest", type=int, default=0, help="workers that take updates in, and are killed too")
    parser.add_argument("--gate", action="store_true", help="versions are measured before devices have them")
    options = parser.parse_args()
    if options.ingest and options.storage != "servers":
        parser.error("--ingest: workers need a database server: --storage servers")
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    sys.stdout.write(f"{options.kills} kills, seed {seed}\n")
    sys.stdout.flush()
    modes = [False, True] if options.mode == "both" else [options.mode == "async"]
    shares = [options.kills // len(modes) + (at < options.kills % len(modes)) for at in range(len(modes))]
    with tempfile.TemporaryDirectory(prefix="edgefold-gated-") as folder:
        gated = write_gated_task(Path(folder), seed=seed) if options.gate else None
        results = [
            _run(options, seed, is_async=is_async, kills=n, gated=gated)
            for is_async, n in zip(modes, shares, strict=True)
        ]
    return 0 if all(found["is_good"] for found in results) else 1


def _run(
    options: argparse.Namespace, seed: int, *, is_async: bool, kills: int, gated: GatedTask | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="edgefold-kill-") as folder:
        plan = KillPlan(
            folder=Path(folder),
            kills=kills,
            seed=seed,
            devices=options.devices,
            chunk_bytes=1024 * (options.chunk_kb or (256 if options.ingest else 8)),
            broker=options.broker,
            is_async=is_async,
            storage=options.storage,
            fold=options.fold,
            ingest=options.ingest,
            gated=gated,
        )
        found = run_kill_matrix(plan)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.stdout.flush()
    return found


if __name__ == "__main__":
    sys.exit(main())
