"""Chunks that other processes add: the bytes of the service's own fold, whoever is killed on the way."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator import fold_settings
from aggregator.adapters import fold_processes
from aggregator.adapters.blob_store import FolderBlobStore
from aggregator.adapters.fold_auto import LEAST_UPDATES, AutoFoldEngine
from aggregator.adapters.fold_processes import ProcessFoldEngine
from aggregator.async_settings import AsyncSettings
from aggregator.blob_place import open_blobs
from aggregator.chunk_job import MAX_JOB_BYTES, ChunkJob, JobUpdate, pack_sum, sum_chunk, unpack_sum
from aggregator.core.folding import ADAPTER, StrategyConfig
from aggregator.core.partial_sums import CHUNK
from aggregator.core.strategies import STRATEGIES
from aggregator.fold_engine import FoldEngineError
from aggregator.fold_pool import WORTH_VALUES
from aggregator.fold_secret import FoldSecret
from aggregator.fold_settings import FoldSettings, make_engine
from aggregator.fold_worker import place_from, place_text
from aggregator.privacy_settings import PrivacySettings
from aggregator.stored_fold import StoredRound
from aggregator.verification import verify_task
from protocol.errors import ConfigError, LocalProtocolError, StorageError, TrustError
from protocol.fields import FieldError
from tests.aggregator.core.strategies.lora_fleet import LAYOUT
from tests.aggregator.stored_rounds import FLEET, StoredUpdates
from tests.aggregator.test_app import facts_of, joined
from tests.aggregator.test_async_runner import asynchronous, fill, is_proven, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from aggregator.blob_settings import ObjectPlace
    from aggregator.core.partial_sums import ChunkSum
    from tests.aggregator.workbench import Bench

N_UPDATES = 2 * CHUNK + 9
N_PARAMS = 301


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredUpdates:
    """A round of three chunks."""
    return StoredUpdates(tmp_path_factory.mktemp("round"), n_params=N_PARAMS, n_updates=N_UPDATES)


@pytest.fixture
def engine(stored: StoredUpdates) -> Iterator[ProcessFoldEngine]:
    with closing(ProcessFoldEngine(stored.blobs._folder, workers=2)) as one:
        yield one


def fold(stored: StoredUpdates, engine: Any = None, **more: Any) -> bytes:
    round_ = StoredRound(
        stored.setup, stored.round, stored.updates, blobs=stored.blobs, fleet=FLEET, engine=engine, **more
    )
    return round_.fold_into({ADAPTER: stored.adapter})[ADAPTER].tobytes()


def job_of(stored: StoredUpdates, first: int = 0, n: int = CHUNK) -> ChunkJob:
    return ChunkJob(
        fleet=FLEET,
        task=stored.round.task,
        bundle_id=stored.bundle.id,
        n_values=stored.adapter.size,
        task_keys=(stored.keys.of_round(1).raw,),
        updates=tuple(
            JobUpdate(device=one.device, update_id=one.update_id, blob=one.blob, round=1, version=0)
            for one in stored.updates[first : first + n]
        ),
    )


class Failing:
    """An engine that gives up after some chunks."""

    def __init__(self, stored: StoredUpdates, *, after: int) -> None:
        self._stored, self._after = stored, after

    def takes(self, *, n_updates: int, n_values: int) -> bool:
        return n_updates > 0 < n_values

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        for job in jobs[: self._after]:
            yield sum_chunk(job, self._stored.blobs)
        raise FoldEngineError("no more")

    def close(self) -> None:
        pass


def test_processes_give_the_bytes_of_the_services_own_fold(stored: StoredUpdates, engine: ProcessFoldEngine) -> None:
    expected = fold(stored)
    assert fold(stored, engine) == fold(stored, engine) == expected
    total, n = np.zeros(N_PARAMS, np.float64), 0  # the law once more, by hand
    for first in range(0, N_UPDATES, CHUNK):
        part = np.zeros(N_PARAMS, np.float64)
        for i in range(first, min(first + CHUNK, N_UPDATES)):
            part += stored.delta(i).astype(np.float64) * (i + 1)
            n += i + 1
        total += part
    assert (total / n + stored.adapter).astype(np.float32).tobytes() == expected


def test_killed_workers_are_replaced_and_their_chunks_done_again(
    stored: StoredUpdates, engine: ProcessFoldEngine
) -> None:
    expected = fold(stored)
    fold(stored, engine)
    for pid in engine.pids:
        os.kill(pid, signal.SIGKILL)
    assert fold(stored, engine) == expected
    stop = threading.Event()

    def kill_on() -> None:
        while not stop.wait(0.3):
            os.kill(engine.pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_on)
    killer.start()
    try:
        results = {fold(stored, engine) for _ in range(5)}
    finally:
        stop.set()
        killer.join()
    assert results == {expected}


class Elsewhere:
    """An engine whose jobs go through their bytes, and which counts what it added."""

    def __init__(self, blobs: FolderBlobStore) -> None:
        self._blobs, self.n_added = blobs, 0

    def takes(self, *, n_updates: int, n_values: int) -> bool:
        return n_updates > 0 < n_values

    def sums(self, jobs: Sequence[ChunkJob]) -> Iterator[ChunkSum]:
        for job in jobs:
            self.n_added += len(job.updates)
            summed = sum_chunk(ChunkJob.unpack(job.pack()), self._blobs)
            yield unpack_sum(pack_sum(summed), n_values=job.n_values)

    def close(self) -> None:
        pass


OPTIONS: dict[str, dict[str, Any]] = {
    "scaffold": {"n_devices": 100},
    "norm-bounding": {"max_norm": 0.004},
    "fedbuff": {"max_staleness": 2},
    "multi-krum": {"n_byzantine": 1},
    "flexlora": {"default_rank": 1},
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_an_engine_adds_of_each_strategy_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    n = CHUNK + 3
    own = StoredUpdates(tmp_path, n_updates=n, layout=LAYOUT, strategy=name, options=OPTIONS.get(name))
    strategy = STRATEGIES[name]
    initial = np.linspace(-1, 1, LAYOUT.n_params).astype(np.float32)
    state = strategy.init(LAYOUT, StrategyConfig(initial_adapter=initial, options=own.setup.options))

    def folded(engine: Elsewhere | None, blobs: Any) -> Any:
        more = {"blobs": blobs, "fleet": FLEET, "engine": engine}
        return StoredRound(own.setup, own.round, own.updates, **more).fold_into(state)

    here, engine = folded(None, own.blobs), Elsewhere(own.blobs)
    nowhere = FolderBlobStore(tmp_path / "nowhere")  # the service itself has nothing to open
    there = folded(engine, nowhere if strategy.needs.engine == "all" else own.blobs)
    assert {key: one.tobytes() for key, one in there.items()} == {key: one.tobytes() for key, one in here.items()}
    assert engine.n_added == (0 if strategy.needs.engine == "nothing" else n)
    assert any(here[key].tobytes() != state[key].tobytes() for key in state)


def test_an_engine_weighs_the_updates_of_a_buffer_by_their_age(
    make_bench: Callable[..., Bench],
) -> None:
    adapters = []
    for has_engine in (False, True):
        bench = make_bench(
            f"engine-{has_engine}",
            **asynchronous(),
            cohort=3,
            min_cohort=3,
            privacy=PrivacySettings(rotate_key_rounds=1),  # so that older work has another key
        )
        engine = Elsewhere(bench.blobs)
        object.__setattr__(bench.world, "fold_engine", engine if has_engine else None)
        (slow,) = joined(bench, "slow")
        fill(bench, "a", "b", "c")
        send(slow)
        fill(bench, "d", "e")
        assert (bench.version, engine.n_added) == (2, 6 if has_engine else 0)
        assert is_proven(bench)
        adapters.append(bench.adapter_bytes(2))
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_engine_that_gives_up_costs_nothing_but_a_line(
    stored: StoredUpdates, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert fold(stored, Failing(stored, after=after)) == fold(stored)
    assert [one["chunk"] for one in facts_of(caplog, "fold-engine-failed")] == [after]


def test_workers_that_cannot_read_the_blobs_leave_the_fold_to_the_service(
    stored: StoredUpdates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(ProcessFoldEngine(tmp_path / "elsewhere", workers=1)) as engine:
        assert fold(stored, engine) == fold(stored)
    assert ["missing" in one["why"] for one in facts_of(caplog, "fold-engine-failed")] == [True]


def test_a_workers_end_is_its_parents(engine: ProcessFoldEngine, stored: StoredUpdates) -> None:
    fold(stored, engine)
    pids = engine.pids
    engine.close()
    deadline = time.monotonic() + 10
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert fold(stored, engine) == fold(stored)  # it starts again


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_are_started_on_their_own_only_for_many_short_updates(stored: StoredUpdates) -> None:
    with closing(ProcessFoldEngine(stored.blobs._folder, workers=1)) as processes:
        auto = AutoFoldEngine(processes)
        assert not auto.takes(n_updates=LEAST_UPDATES - 1, n_values=N_PARAMS)
        assert not auto.takes(n_updates=LEAST_UPDATES, n_values=WORTH_VALUES)
        assert processes.pids == []
        assert not auto.takes(n_updates=LEAST_UPDATES, n_values=N_PARAMS)  # nobody waits for their start
        assert len(processes.pids) == 1
        assert auto.takes(n_updates=LEAST_UPDATES, n_values=N_PARAMS)
        assert list(map(pack_sum, auto.sums([job_of(stored)]))) == [pack_sum(sum_chunk(job_of(stored), stored.blobs))]


def test_without_being_told_a_service_helps_itself_to_processes_where_that_is_possible(
    tmp_path: Path, object_place: ObjectPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_settings, "n_cores", lambda: 16)
    assert isinstance(make_engine(FoldSettings(), tmp_path), AutoFoldEngine)
    assert make_engine(FoldSettings(), object_place) is None
    assert make_engine(FoldSettings(engine="local"), tmp_path) is None
    monkeypatch.setattr(fold_settings, "n_cores", lambda: 1)
    assert make_engine(FoldSettings(), tmp_path) is None


def test_a_machine_without_room_for_processes_folds_by_itself(
    stored: StoredUpdates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(*_args: Any, **_more: Any) -> Any:
        raise OSError(errno.EAGAIN, "no room")

    monkeypatch.setattr(fold_processes.subprocess, "Popen", no_room)
    processes = ProcessFoldEngine(stored.blobs._folder, workers=1)
    assert not AutoFoldEngine(processes).takes(n_updates=LEAST_UPDATES, n_values=N_PARAMS)
    assert fold(stored, processes) == fold(stored)
    assert ["no room" in one["why"] for one in facts_of(caplog, "fold-engine-failed")] == [True]


def test_processes_read_object_storage(stored: StoredUpdates, object_place: ObjectPlace) -> None:
    with closing(open_blobs(object_place)) as blobs, closing(ProcessFoldEngine(object_place, workers=2)) as engine:
        for one in stored.updates:
            blobs.put(stored.blobs.get(one.blob, max_bytes=10**6))
        jobs = [job_of(stored, first) for first in range(0, N_UPDATES, CHUNK)]
        found = list(engine.sums(jobs))
    expected = [sum_chunk(job, stored.blobs) for job in jobs]
    assert [pack_sum(one) for one in found] == [pack_sum(one) for one in expected]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "norm-bounding", "strategy_options": {"max_norm": 0.2}},
        {"strategy": "fedbuff", "mode": "async", "asynchronous": AsyncSettings(concurrency=200)},
    ],
    ids=["fedavg", "norm-bounding", "fedbuff"],
)
def test_a_history_that_was_folded_before_there_were_chunks_still_verifies(
    settings: dict[str, Any], make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aggregator.core import means, partial_sums

    def of_old(deltas: Any, n_values: int, weights: Any) -> Any:
        return partial_sums.chunk_sums(iter(deltas), n_values, weights, chunk=10**9)

    bench = make_bench(cohort=70, min_cohort=70, rounds=3, **settings)
    devices = [bench.device(f"d{i:02}") for i in range(70)]
    with monkeypatch.context() as patch:
        patch.setattr(means, "chunk_sums", of_old)
        patch.setattr(StoredRound, "chunk_sums", of_old)
        bench.play(*devices)
    bench.play(*devices)  # and one of today
    assert bench.version == 2
    found = verify_task(bench.setup, bench.store, bench.blobs, fleet=bench.world.conversation.fleet)
    assert found.is_good, found
    assert [one.n_updates for one in found.versions] == [0, 70, 70]


def test_a_job_survives_its_bytes_and_shows_no_key(stored: StoredUpdates) -> None:
    job = job_of(stored)
    assert ChunkJob.unpack(job.pack()) == job
    assert len(job.pack()) < MAX_JOB_BYTES
    assert "task_keys" not in repr(job)
    with pytest.raises(LocalProtocolError):
        ChunkJob.unpack(b"\x80")


def test_a_sum_of_another_length_is_refused(stored: StoredUpdates) -> None:
    data = pack_sum(sum_chunk(job_of(stored), stored.blobs))
    assert pack_sum(unpack_sum(data, n_values=N_PARAMS)) == data
    with pytest.raises(LocalProtocolError):
        unpack_sum(data[:-8], n_values=N_PARAMS)


def test_a_changed_blob_is_still_an_error_of_the_storage(tmp_path: Path) -> None:
    own = StoredUpdates(tmp_path, n_params=20, n_updates=3)
    (own.blobs._folder / own.updates[1].blob).write_bytes(b"other")
    with (
        closing(ProcessFoldEngine(own.blobs._folder, workers=1)) as engine,
        pytest.raises(StorageError, match="changed"),
    ):
        fold(own, engine)


def test_a_secret_hides_jobs_and_binds_answers_to_them(tmp_path: Path) -> None:
    path = tmp_path / "fold.secret"
    with pytest.raises(ConfigError, match="no such file"):
        FoldSecret.load(path)
    ours, same, other = FoldSecret.load(path, make=True), FoldSecret.load(path), FoldSecret(bytes(32))
    assert path.stat().st_mode & 0o777 == 0o600
    job, another = b"job with a key", b"another job"
    sealed = ours.seal_job(job)
    assert job not in sealed
    assert same.open_job(sealed) == job
    answer = same.seal_sum(b"sum", job=job)
    assert ours.open_sum(answer, job=job) == b"sum"
    for attempt in (
        lambda: other.open_job(sealed),
        lambda: ours.open_job(b"short"),
        lambda: ours.open_sum(answer, job=another),
        lambda: ours.open_sum(other.seal_sum(b"forged", job=job), job=job),
        lambda: ours.open_sum(sealed, job=job),
        lambda: ours.open_sum(answer[:-1] + bytes([answer[-1] ^ 1]), job=job),
    ):
        with pytest.raises(TrustError):
            attempt()
    path.write_text("no hex\n")
    with pytest.raises(ConfigError, match="64 hex digits"):
        FoldSecret.load(path)


def test_a_place_survives_its_text(tmp_path: Path, object_place: ObjectPlace) -> None:
    for place in (tmp_path, object_place):
        assert place_from(place_text(place)) == place


def test_a_cluster_needs_an_address_and_a_secret() -> None:
    with pytest.raises(FieldError, match="address"):
        FoldSettings(engine="ray", secret="x")
