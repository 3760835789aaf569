"""Folds on a real Ray cluster of two nodes on this machine: the service's own bytes, whoever is killed.

Run by ``make test-scale``, which installs Ray.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from aggregator.adapters.fold_ray import REST_S, RayFoldEngine
from aggregator.blob_place import open_blobs
from aggregator.fold_engine import FoldEngineError
from deploy.object_server import KEYS
from deploy.ray_cluster import RayCluster
from deploy.simulate.audit import audit
from deploy.simulate.identities import make_identities, register
from deploy.simulate.journal import Journal
from deploy.simulate.local_service import LocalSpec, local_fleet, plan_of
from deploy.simulate.processes import children, command_of
from deploy.simulate.profile import Group, Profile
from deploy.simulate.run import Simulation
from deploy.simulate.service import ask, read_service
from deploy.simulate.storage_servers import started_storage
from protocol.errors import ConfigError
from tests.aggregator.conftest import object_keys, object_place, object_server
from tests.aggregator.stored_rounds import StoredUpdates
from tests.aggregator.test_app import facts_of
from tests.aggregator.test_fold_engines import fold, job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aggregator.blob_settings import ObjectPlace

__all__ = ["object_keys", "object_place", "object_server"]  # fixtures

pytestmark = [
    pytest.mark.scale,
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("EDGEFOLD_SCALE", "").lower() not in {"1", "true"} or importlib.util.find_spec("ray") is None,
        reason="starts a Ray cluster; run: make test-scale",
    ),
]

N_UPDATES = 5 * 64 + 9


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ray"), environment=KEYS) as one:
        yield one


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredUpdates:
    return StoredUpdates(tmp_path_factory.mktemp("round"), n_params=2001, n_updates=N_UPDATES)


@pytest.fixture(autouse=True)
def access(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process's children speak to the cluster."""
    for name, value in cluster.access.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def make_engine(cluster: RayCluster, tmp_path: Path) -> Iterator[Callable[..., RayFoldEngine]]:
    made: list[RayFoldEngine] = []

    def make(place: Any, *, address: str = cluster.address) -> RayFoldEngine:
        made.append(RayFoldEngine(place, address=address, secret=str(tmp_path / "fold.secret")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_cluster_of_two_nodes_gives_the_services_own_bytes_from_object_storage(
    make_engine: Callable[..., RayFoldEngine],
    stored: StoredUpdates,
    object_place: ObjectPlace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(open_blobs(object_place)) as blobs:
        for one in stored.updates:
            blobs.put(stored.blobs.get(one.blob, max_bytes=10**6))
    engine = make_engine(object_place)
    expected = fold(stored)
    assert [fold(stored, engine) for _ in range(3)] == [expected] * 3
    assert facts_of(caplog, "fold-engine-failed") == []


def test_a_node_that_is_killed_in_a_fold_costs_time_alone(
    cluster: RayCluster,
    make_engine: Callable[..., RayFoldEngine],
    stored: StoredUpdates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(stored.blobs._folder)
    expected = fold(stored)
    assert fold(stored, engine) == expected
    cluster.kill_node()
    assert fold(stored, engine) == expected  # while Ray finds out
    cluster.add_node()
    kills = [threading.Timer(after_s, _kill_workers, [cluster]) for after_s in (0.05, 0.4, 0.8)]
    for one in kills:
        one.start()
    while any(one.is_alive() for one in kills):
        assert fold(stored, engine) == expected
    assert facts_of(caplog, "fold-engine-failed") == []


def _kill_workers(cluster: RayCluster) -> None:
    """End Ray's processes that do our work, with SIGKILL."""
    for node in cluster.pids:
        for one in psutil.Process(node).children(recursive=True):
            if one.name().startswith(("ray::sum_sealed", "ray::IDLE")):
                one.send_signal(signal.SIGKILL)


def test_a_cluster_that_is_not_there_or_does_not_know_the_secret_leaves_the_fold_to_the_service(
    cluster: RayCluster,
    make_engine: Callable[..., RayFoldEngine],
    stored: StoredUpdates,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{free.getsockname()[1]}"
    engine = make_engine(stored.blobs._folder, address=nowhere)
    expected = fold(stored)
    assert fold(stored, engine) == expected
    started = time.monotonic()
    assert fold(stored, engine) == expected  # without a second try
    assert time.monotonic() - started < REST_S / 4
    assert len(facts_of(caplog, "fold-engine-failed")) == 2
    strange = make_engine(stored.blobs._folder)
    jobs = [job_of(stored)]
    assert len(list(strange.sums(jobs))) == 1  # nodes have read the secret now
    (tmp_path / "fold.secret").write_text("00" * 32)
    _kill_workers(cluster)  # those that come in their place have another
    with pytest.raises(FoldEngineError, match="TrustError"):
        list(strange.sums(jobs))


def test_who_has_no_token_is_not_let_in(
    cluster: RayCluster,
    make_engine: Callable[..., RayFoldEngine],
    stored: StoredUpdates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    engine = make_engine(stored.blobs._folder)
    with pytest.raises(FoldEngineError):
        list(engine.sums([job_of(stored)]))
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token"):
        make_engine(stored.blobs._folder)
    assert cluster.access["RAY_AUTH_MODE"] == "token"


N_DEVICES, SEED = 150, 11


class Played:
    """A service on PostgreSQL and S3 that folds on the cluster ``rounds`` times, and what the audit found of it."""

    def __init__(
        self, cluster: RayCluster, folder: Path, *, rounds: int, is_async: bool = False, **more_tables: Any
    ) -> None:
        self.cluster, self.folder, self.more_tables = cluster, folder, more_tables
        self.rounds, self.is_async = rounds, is_async
        self.seen: list[str] = []
        self.n_accepted = 0

    def run(self, each: Callable[[], None]) -> None:
        """Play to the end; ``each`` is called again and again."""
        profile = Profile(group=(Group(name="quick", train_s=0.2, spread=0.5),))
        journal_path = self.folder / "journal.jsonl"
        with started_storage("servers", self.folder) as (settings, _):
            fold_table = {"engine": "ray", "address": self.cluster.address, "secret": "fold.secret"}
            spec = LocalSpec(
                folder=self.folder,
                n_devices=N_DEVICES,
                profile=profile,
                n_params=2000,
                rounds=self.rounds,
                seed=SEED,
                is_async=self.is_async,
                cohort=N_DEVICES,
                service_settings=settings,
                more_tables={"fold": fold_table, **self.more_tables},
            )
            self.fleet = fleet = local_fleet(spec)
            self.service = read_service(fleet.aggregator_config)
            identities = make_identities(self.folder / "devices.secret", N_DEVICES)
            register(self.service.registry, identities)

            def look() -> None:
                self.n_accepted = simulation.counts.n_accepted
                for happened in fleet.poll():
                    self.seen.append(happened.name)
                each()

            with fleet, Journal(journal_path) as journal:
                simulation = Simulation(self.service, identities, journal, profile=profile, seed=SEED)
                with closing(simulation):
                    assert simulation.run(until=lambda: self.is_over(simulation), deadline_s=300, each=look)
                assert ask(self.service, "verify")["ok"]  # folds again by itself
                self.found = audit(self.service, journal_path, seed=SEED, plan=plan_of())
                self.staged = self.staged_by() if self.more_tables else {}

    def is_over(self, simulation: Simulation) -> bool:
        """Whether the task is finished and every device has heard what became of its update."""
        return "task-finished" in self.seen and simulation.is_quiet

    def worker(self, name: str) -> int:
        """Give the process id of an ingest worker that runs."""
        pid = self.fleet.processes["aggregator"].pid
        assert pid is not None
        (found,) = [one for one in children(pid) if re.search(f"serve ingest .*--name {name}\\b", command_of(one))]
        return found

    def staged_by(self) -> dict[str, int]:
        """Say how many updates each ingest worker has put into storage."""
        command = [sys.executable, "-m", "edgefold", "serve", "workers", "--config", str(self.service.config), "--json"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        return {one["worker"]: one["staged"] for one in json.loads(shown.stdout)["workers"]}

    def check(self) -> None:
        """Nothing lost, nothing twice, each version's bytes those of the journal; and all of it on the cluster."""
        assert self.found.is_good, self.found
        assert self.found.n_versions == self.rounds
        assert self.found.n_folded == self.found.n_accepted - self.found.n_abandoned
        assert "fold-engine-failed" not in self.seen


def test_a_service_on_postgresql_and_s3_folds_on_the_cluster_while_a_node_is_killed(
    cluster: RayCluster, tmp_path: Path
) -> None:
    played, killed = Played(cluster, tmp_path, rounds=3), list[str]()

    def each() -> None:
        if "version-folded" in played.seen and not killed:
            killed.append("node")
            cluster.kill_node()
            cluster.add_node()

    played.run(each)
    assert killed
    played.check()
    assert played.found.n_folded == 3 * N_DEVICES


def test_two_ingest_workers_take_updates_in_while_the_cluster_folds_and_one_is_killed(
    cluster: RayCluster, tmp_path: Path
) -> None:
    # Buffers of 50: while the cluster folds one, the workers fill the next.
    played, killed = Played(cluster, tmp_path, rounds=5, is_async=True, ingest={"workers": 2}), list[int]()

    def each() -> None:
        if "version-folded" in played.seen and not killed:
            killed.append(played.worker("local-1"))
            os.kill(killed[0], signal.SIGKILL)

    played.run(each)
    assert killed
    assert {"ingest-worker-died", "ingest-worker-started"} <= set(played.seen)  # and another is in its place
    played.check()
    assert sorted(played.staged) == ["local-1", "local-2"]
    assert min(played.staged.values()) > N_DEVICES // 5  # the group shares them out
