"""Updates in chunks: taken once and whole however they come, refused early, bounded, safe against hostile devices."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.adapters.sql_dump import LEFT_BEHIND
from aggregator.upload_settings import UploadSettings
from aggregator.verification import verify_task
from protocol import signing
from protocol.messages import Announce, Update, Work
from protocol.uploads import MIN_CHUNK_BYTES, Chunk, Upload, Uploaded, chunk_span, hashes_of, unpack_have
from tests.aggregator.workbench import FLEET, TASK, Bench, Device, KilledError, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from protocol.messages import Body

N_PARAMS = 9_000  # 11 kB as int8: four chunks, with seal and envelope


class Uploader(Device):
    """A device that sends its updates in chunks."""

    def __init__(self, bench: Bench, name: str) -> None:
        super().__init__(bench, name)
        self._sealed: dict[int, bytes] = {}

    def sealed_once(self, work: Work) -> bytes:
        """Return the envelope of this device's update for ``work``: the same bytes whenever it is asked again."""
        if work.round not in self._sealed:
            self._sealed[work.round] = self.envelope(large_update(self, work))
        return self._sealed[work.round]

    def envelope(self, update: Body) -> bytes:
        """Return the message that would be sent at once."""
        return signing.sign(update, fleet=FLEET, sender=self.name, key=self.key)

    def manifest(self, update: Update, data: bytes | None = None, **changes: Any) -> tuple[Upload, bytes]:
        """Return how ``update`` is cut, and the whole."""
        data = self.envelope(update) if data is None else data
        digest, hashes = hashes_of(len(data), MIN_CHUNK_BYTES, lambda first, n: data[first : first + n])
        facts = {name: getattr(update, name) for name in ("task", "round", "version", "bundle_id", "update_id")}
        upload = Upload(**facts, n_bytes=len(data), digest=digest, chunk_bytes=MIN_CHUNK_BYTES, hashes=hashes)
        return dataclasses.replace(upload, **changes), data

    def begin(self, upload: Upload) -> None:
        """Say what is to come, and let the service take it."""
        self.publish(upload, "upload")
        self.bench.settle()

    def chunk(self, upload: Upload, data: bytes, index: int) -> None:
        """Send one chunk, and let the service take it."""
        first, n = chunk_span(upload.n_bytes, upload.chunk_bytes, index)
        self.publish(Chunk(update_id=upload.update_id, index=index, data=data[first : first + n]), "chunk")
        self.bench.settle()

    def have(self) -> set[int]:
        """Return which chunks the service said last that it has."""
        said = self.last(Uploaded)
        assert said.status == "open"
        return set(unpack_have(said.have, 1024))


@pytest.fixture
def make_large(tmp_path: Path, make_bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """Make benches whose updates need four chunks."""

    def make(name: str = "large", **settings: Any) -> Bench:
        (tmp_path / name).mkdir()
        make_bundle(tmp_path / name / "bundle", n_params=N_PARAMS)
        return make_bench(name, **settings)

    return make


def joined(bench: Bench, *names: str) -> list[Uploader]:
    devices = []
    for name in names:
        device = Uploader(bench, name)
        bench.devices[name] = device.key.public
        device.join()
        bench.settle()
        devices.append(device)
    return devices


def large_update(device: Device, work: Work | None = None, *, seed: int = 0) -> Update:
    work = work or device.last(Work)
    rng = np.random.default_rng([seed, work.round, *device.name.encode()])
    return device.make_update(delta=rng.normal(0, 0.001, N_PARAMS).astype(np.float32), work=work, seed=seed)


def test_an_update_in_chunks_is_taken_as_one_that_came_at_once(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    a, b = joined(bench, "a", "b")
    update = large_update(a)
    upload, data = a.manifest(update)
    a.begin(upload)
    assert a.have() == set()
    for index in reversed(range(upload.n_chunks)):
        a.chunk(upload, data, index)
    assert a.receipts() == [("accepted", None)]
    assert bench.upload_rows.manifest("a") is None
    b.publish(large_update(b), "update")
    bench.settle()
    assert bench.version == 1
    assert verify_task(bench.setup, bench.store, bench.blobs, fleet=FLEET).is_good


def test_after_a_break_only_what_is_missing_is_sent(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    for index in (0, 3):
        a.chunk(upload, data, index)
    bench.restart()
    a.begin(upload)
    assert a.have() == {0, 3}
    for index in set(range(upload.n_chunks)) - {0, 3}:
        a.chunk(upload, data, index)
    assert a.receipts() == [("accepted", None)]


def test_a_chunk_that_comes_twice_changes_nothing(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    for index in (1, 1, 1):
        a.chunk(upload, data, index)
    assert a.have() == {1}


def test_a_whole_that_was_taken_is_known_by_its_manifest_alone(make_large: Callable[..., Bench]) -> None:
    bench = make_large(cohort=3)
    (a,) = joined(bench, "a")
    update = large_update(a)
    a.publish(update, "update")
    bench.settle()
    a.begin(a.manifest(update)[0])
    assert a.receipts() == [("accepted", None)] * 2
    assert a.all(Uploaded) == []
    assert bench.refusals() == {"replayed": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 7}, "wrong-round"),
        ({"task": "other"}, "wrong-task"),
        ({"version": 3}, "wrong-version"),
        ({"bundle_id": "c" * 64}, "wrong-bundle"),
        ({"is_step": True}, "wrong-privacy"),
    ],
)
def test_what_its_manifest_shows_to_be_in_vain_is_refused_before_a_chunk_comes(
    make_large: Callable[..., Bench], changes: dict[str, Any], reason: str
) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, _ = a.manifest(large_update(a), **changes)
    a.begin(upload)
    assert a.receipts() == [("refused", reason)]
    assert bench.upload_rows.manifest("a") is None


def test_a_device_without_work_can_open_nothing(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    stranger = Uploader(bench, "c")
    bench.devices["c"] = stranger.key.public
    upload, _ = stranger.manifest(large_update(stranger, a.last(Work)))
    stranger.begin(upload)
    assert stranger.receipts() == [("refused", "not-joined")]


def test_more_bytes_than_the_adapter_can_need_are_refused(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, _ = a.manifest(large_update(a), bytes(200_000))
    a.begin(upload)
    assert a.receipts() == [("refused", "oversize")]


def test_a_chunk_of_other_bytes_is_counted_and_not_kept(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    bad = bytes(MIN_CHUNK_BYTES)
    for index, piece in [(0, bad), (0, data[:100]), (upload.n_chunks, data[:MIN_CHUNK_BYTES]), (900, b"x")]:
        a.publish(Chunk(update_id=upload.update_id, index=index, data=piece), "chunk")
        bench.settle()
    assert bench.refusals() == {"bad-chunk": 4}
    a.begin(upload)
    assert a.have() == set()


def test_a_chunk_of_another_device_goes_into_no_upload_but_its_own(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    a, b = joined(bench, "a", "b")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    b.chunk(upload, data, 0)  # the very bytes, under its own name
    assert b.last(Uploaded).status == "unknown"
    assert bench.upload_rows.have("a") == frozenset()
    b.publish(Chunk(update_id=upload.update_id, index=0, data=data[:MIN_CHUNK_BYTES]), "chunk", key=a.key)
    bench.settle()
    assert bench.upload_rows.have("a") == frozenset()


def test_chunks_that_are_not_the_whole_of_the_manifest_end_the_upload(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    upload, data = a.manifest(large_update(a), digest=hashlib.sha256(b"else").digest())
    a.begin(upload)
    for index in range(upload.n_chunks):
        a.chunk(upload, data, index)
    assert a.receipts() == [("refused", "bad-chunk")]
    assert bench.upload_rows.manifest("a") is None


@pytest.mark.parametrize("inner", ["noise", "of another device", "a join"])
def test_a_whole_that_is_no_update_of_this_device_is_refused_and_answered(
    make_large: Callable[..., Bench], inner: str
) -> None:
    bench = make_large()
    a, b = joined(bench, "a", "b")
    update = large_update(a)
    data = {
        "noise": bytes(9000),
        "of another device": b.envelope(large_update(b)),
        "a join": a.envelope(Announce(task=TASK, state="open", round=1, version=0, bundle_id=bench.bundle_id)),
    }[inner]
    upload, data = a.manifest(update, data)
    a.begin(upload)
    for index in range(upload.n_chunks):
        a.chunk(upload, data, index)
    ((status, reason),) = a.receipts()
    assert (status, reason) in {("refused", "malformed"), ("refused", "wrong-sender")}
    assert bench.upload_rows.manifest("a") is None
    assert b.receipts() == []


def test_a_device_has_one_upload_and_all_together_a_bound(make_large: Callable[..., Bench]) -> None:
    bench = make_large(cohort=60, min_cohort=1)
    bench.stop()
    bench.uploads = UploadSettings(max_mb=1)
    bench.start()
    devices = joined(bench, *(f"d{i}" for i in range(60)))
    for device in devices:
        for seed in range(3):  # each takes the place of the one before
            device.begin(device.manifest(large_update(device, seed=seed), bytes(19_000))[0])
    said = [device.last(Uploaded).status for device in devices]
    assert said == ["open"] * 55 + ["busy"] * 5
    assert bench.store.taken_from(TASK, 1, "d0") is None


def test_an_upload_that_nothing_comes_of_is_forgotten(make_large: Callable[..., Bench]) -> None:
    bench = make_large(deadline_s=1e6)
    (a,) = joined(bench, "a")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    bench.clock.now += bench.uploads.expires_s - 1
    a.chunk(upload, data, 0)
    bench.clock.now += bench.uploads.expires_s - 1
    bench.settle()
    assert bench.upload_rows.have("a") == {0}
    bench.clock.now += 100
    bench.settle()
    a.chunk(upload, data, 1)
    assert a.last(Uploaded).status == "unknown"


def test_a_round_that_closes_meanwhile_ends_the_upload_at_its_next_chunk(make_large: Callable[..., Bench]) -> None:
    bench = make_large(min_cohort=1)
    a, b = joined(bench, "a", "b")
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    a.chunk(upload, data, 0)
    b.publish(large_update(b), "update")
    bench.settle()
    bench.clock.now += 101
    bench.settle()
    assert bench.round == 2
    a.chunk(upload, data, 1)
    assert a.receipts() == [("refused", "late")]
    assert bench.upload_rows.have("a") == frozenset()


def test_a_service_without_the_desk_says_nothing_as_an_old_one_does(make_large: Callable[..., Bench]) -> None:
    bench = make_large()
    (a,) = joined(bench, "a")
    bench.service._parts = dataclasses.replace(bench.service._parts, uploads=None)
    a.begin(a.manifest(large_update(a))[0])
    assert a.all(Uploaded) == []
    assert bench.refusals() == {"malformed": 1}


def test_traffic_is_counted_once_for_each_byte_that_came(make_large: Callable[..., Bench]) -> None:
    bench = make_large(cohort=3)
    (a,) = joined(bench, "a")
    before = bench.store.summary(TASK, 1).bytes_up
    upload, data = a.manifest(large_update(a))
    a.begin(upload)
    for index in range(upload.n_chunks):
        a.chunk(upload, data, index)
    up = bench.store.summary(TASK, 1).bytes_up - before
    assert len(data) < up < len(data) + 400 * (upload.n_chunks + 1)


def test_uploads_stay_behind_when_the_service_is_backed_up() -> None:
    assert {"uploads", "upload_chunks"} <= LEFT_BEHIND


def send_what_is_missing(device: Uploader) -> None:
    """What a device does whenever it hears something."""
    bench = device.bench
    bench.settle()
    announce = device.last(Announce)
    works = [one for one in device.all(Work) if one.round == announce.round]
    if announce.state == "finished":
        return
    if not works:
        device.join(announce.round)
        bench.settle()
        return
    upload, data = device.manifest(large_update(device, works[-1]), device.sealed_once(works[-1]))
    device.begin(upload)
    said = [one for one in device.all(Uploaded) if one.update_id == upload.update_id]
    missing = set(range(upload.n_chunks)) - (set(unpack_have(said[-1].have, 1024)) if said else set())
    for index in sorted(missing):
        device.chunk(upload, data, index)


def play(bench: Bench, devices: list[Uploader]) -> None:
    for _ in range(20):
        if bench.runner.is_finished:
            return
        for device in devices:
            send_what_is_missing(device)
    pytest.fail("the task did not finish")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_effect_loses_and_doubles_nothing(when: str, make_large: Callable[..., Bench]) -> None:
    def make(name: str) -> tuple[Bench, list[Uploader]]:
        bench = make_large(name, rounds=1, cohort=1, min_cohort=1)
        device = Uploader(bench, "a")
        bench.devices["a"] = device.key.public
        device.read()
        return bench, [device]

    bench, devices = make("undisturbed")
    bench.hooks.count()
    play(bench, devices)
    expected = bench.adapter_bytes()
    n_effects = bench.hooks.n_effects
    assert n_effects > 25
    for n in range(n_effects):
        bench, devices = make(f"{when}-{n}")
        bench.hooks.kill(when, n)
        try:
            play(bench, devices)
        except KilledError:
            bench.hooks.spare()
            bench.restart()
        play(bench, devices)
        assert bench.adapter_bytes() == expected, f"killed {when} effect {n}"
        assert len(bench.folded_ids()) == 1
        bench.stop()
