"""Ingest workers beside the service: the same rounds, bytes and answers, whoever is killed and whatever comes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from aggregator.ingest_settings import SERVICE_KINDS, IngestSettings, worker_filter
from protocol.fields import FieldError
from protocol.messages import Kind, Receipt
from protocol.signing import SigningKey
from tests.aggregator.ingest_bench import Ingest
from tests.aggregator.test_app import facts_of
from tests.aggregator.test_async_runner import asynchronous
from tests.aggregator.test_restart import outcome, take_part
from tests.aggregator.test_uploads import joined, large_update, make_large
from tests.aggregator.workbench import N_PARAMS, TASK, Bench, Device, KilledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["make_large"]  # a fixture


@pytest.fixture
def make(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., tuple[Bench, Ingest]]]:
    caplog.set_level("INFO")
    made: list[Ingest] = []

    def both(name: str = "bench", *, max_staged: int = 1000, **settings: Any) -> tuple[Bench, Ingest]:
        bench = make_bench(name, has_workers=True, **settings)
        made.append(Ingest(bench, max_staged=max_staged))
        return bench, made[-1]

    yield both
    for one in made:
        one.stop()


def join(bench: Bench, *devices: Device) -> None:
    for device in devices:
        device.join()
    bench.settle()


def play_to_the_end(bench: Bench, ingest: Ingest, devices: list[Device]) -> None:
    for _ in range(60):
        if bench.runner.is_finished:
            return
        for device in devices:
            take_part(device)
            bench.settle()
            ingest.settle()
    pytest.fail("the task did not finish")


def reference(make_bench: Callable[..., Bench]) -> list[bytes]:
    """Return the versions of a service that takes everything in by itself."""
    bench = make_bench("alone")
    devices = [bench.device("a"), bench.device("b")]
    for _ in range(60):
        for device in devices:
            take_part(device)
            bench.settle()
        if bench.runner.is_finished:
            return outcome(bench)
    pytest.fail("the task did not finish")


def test_rounds_with_a_worker_give_the_bytes_of_rounds_without(
    make: Callable[..., tuple[Bench, Ingest]], make_bench: Callable[..., Bench]
) -> None:
    bench, ingest = make()
    devices = [bench.device("a"), bench.device("b")]
    play_to_the_end(bench, ingest, devices)
    assert outcome(bench) == reference(make_bench)
    assert ingest.staging.n_waiting() == 0
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_any_effect_of_either_changes_nothing(
    when: str, make: Callable[..., tuple[Bench, Ingest]], make_bench: Callable[..., Bench]
) -> None:
    expected = reference(make_bench)
    bench, ingest = make("counted")
    bench.hooks.count()
    play_to_the_end(bench, ingest, [bench.device("a"), bench.device("b")])
    n_effects = bench.hooks.n_effects
    assert n_effects > 40
    for n in range(1 if when == "before" else 5, n_effects, 9):
        bench, ingest = make(f"{when}-{n}")
        devices = [bench.device("a"), bench.device("b")]
        bench.hooks.kill(when, n)
        try:
            play_to_the_end(bench, ingest, devices)
        except KilledError:
            bench.hooks.spare()
            bench.restart()
            ingest.restart()
        play_to_the_end(bench, ingest, devices)
        assert outcome(bench) == expected, f"killed {when} effect {n}"


def test_two_workers_that_get_the_same_update_stage_it_once(make: Callable[..., tuple[Bench, Ingest]]) -> None:
    bench, first = make()
    second = Ingest(bench, name="local-2")
    a = bench.device("a")
    join(bench, a)
    a.update()
    assert [first.worker.step(0), second.worker.step(0)] == [1, 1]
    assert first.staging.n_waiting() == 1
    first.settle()
    assert a.receipts() == [("accepted", None)]
    second.stop()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"delta": np.full(N_PARAMS, 1.0, np.float32)}, "norm-exceeded"),
        ({"payload": b"nonsense"}, "bad-encoding"),
        ({"content": b"nonsense"}, "malformed"),
        ({"n_examples": 10**6}, "bad-examples"),
        ({"round": 9}, "wrong-round"),
        ({"version": 5}, "wrong-version"),
        ({"task": "another"}, "wrong-task"),
    ],
)
def test_an_update_that_is_no_good_is_answered_and_leaves_nothing(
    facts: dict[str, Any], reason: str, make: Callable[..., tuple[Bench, Ingest]]
) -> None:
    bench, ingest = make(max_examples=1000)
    a = bench.device("a")
    join(bench, a)
    before = set(bench.blobs.sizes())
    a.update(**facts)
    ingest.settle()
    assert a.receipts() == [("refused", reason)]
    assert bench.store.refusals("" if "task" in facts else TASK)[reason] == 1
    assert (ingest.staging.n_waiting(), set(bench.blobs.sizes())) == (0, before)
    good = a.update()
    ingest.settle()
    assert a.last(Receipt) == Receipt(task=TASK, round=1, update_id=good.update_id, status="accepted")


def test_the_sealed_bytes_of_a_taken_update_under_another_id_do_not_take_them_away(
    make: Callable[..., tuple[Bench, Ingest]],
) -> None:
    bench, ingest = make()
    a, b = bench.device("a"), bench.device("b")
    join(bench, a, b)
    good = a.make_update()
    a.publish(dataclasses.replace(good, update_id=bytes(16)), "update")  # it opens under its own id only
    a.publish(good, "update")
    ingest.settle()
    b.publish(dataclasses.replace(good, update_id=bytes(range(16))), "update")
    ingest.settle()
    assert a.receipts() == [("refused", "bad-seal"), ("accepted", None)]
    assert b.receipts() == [("refused", "bad-seal")]
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)
    b.update()
    ingest.settle()
    assert bench.store.latest_version(TASK).version == 1


def test_what_is_not_signed_by_its_device_is_counted_and_not_answered(
    make: Callable[..., tuple[Bench, Ingest]],
) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    a.publish(a.make_update(), "update", key=SigningKey(bytes(range(32))))
    ingest.settle()
    assert a.receipts() == []
    assert bench.store.refusals("") == {"bad-signature": 1}
    bench.devices.revoked.add("a")
    a.update()
    ingest.settle()
    assert bench.store.refusals("")["revoked"] == 1


def test_an_update_that_comes_again_is_answered_again_and_counted_once(
    make: Callable[..., tuple[Bench, Ingest]],
) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    update = a.update()
    ingest.settle()
    a.publish(update, "update")
    ingest.settle()
    assert a.receipts() == [("accepted", None)] * 2
    assert [one.update_id for one in bench.store.updates(TASK, 1)] == [update.update_id]
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)


def test_one_that_was_staged_in_time_and_comes_up_too_late_is_refused_and_its_bytes_go(
    make: Callable[..., tuple[Bench, Ingest]],
) -> None:
    bench, ingest = make(min_cohort=1)
    devices = [bench.device("a"), bench.device("b")]
    join(bench, *devices)
    devices[0].update()
    ingest.settle()
    devices[1].update()
    while ingest.worker.step(0) == 0:  # staged, and the service is busy until the deadline
        pass
    assert ingest.staging.n_waiting() == 1
    bench.store.start_closing(TASK, 1, "deadline-with-enough")
    bench.restart()
    ingest.settle()
    assert devices[1].receipts() == [("refused", "late")]
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)


def test_an_update_that_comes_while_a_buffer_is_folded_is_taken_into_the_next(
    make: Callable[..., tuple[Bench, Ingest]],
) -> None:
    for n in range(1, 60):
        bench, ingest = make(f"killed-{n}", **asynchronous())
        a, b, c = devices = [bench.device(name) for name in "abc"]
        join(bench, *devices)
        a.update()
        b.update()
        bench.hooks.kill("before", n)
        with pytest.raises(KilledError):
            ingest.settle()
        bench.hooks.spare()
        if bench.store.latest_round(TASK).state == "closing":
            break
    c.update()
    ingest.restart()
    while ingest.worker.step(0):  # and the service is not back yet
        pass
    bench.restart()
    ingest.settle()
    assert c.receipts() == [("accepted", None)]
    assert [one.update.device for one in bench.store.buffered(TASK, 2)] == ["c"]


def test_a_worker_that_has_not_read_a_new_key_leaves_the_opening_to_the_service(
    make: Callable[..., tuple[Bench, Ingest]], caplog: pytest.LogCaptureFixture
) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    ingest.bench.folders.task_key(TASK).rename(bench.folder / "aside")  # as on a machine that was given no key
    a.update()
    ingest.settle()
    assert a.receipts() == [("accepted", None)]
    assert len(facts_of(caplog, "staged-update-opened-here")) == 1
    assert [one["task"] for one in facts_of(caplog, "ingest-task-not-open")] == [TASK]
    a.update(delta=np.full(N_PARAMS, 1.0, np.float32), round=1)
    ingest.settle()
    assert a.receipts()[-1] == ("refused", "duplicate")


def test_a_worker_with_other_settings_decides_nothing(make: Callable[..., tuple[Bench, Ingest]]) -> None:
    bench, ingest = make(max_examples=1000)
    a = bench.device("a")
    join(bench, a)
    ingest.settings = dataclasses.replace(bench.settings, max_examples=1)
    a.update(n_examples=500)
    ingest.settle()
    assert a.receipts() == [("accepted", None)]


def test_a_seal_that_does_not_open_is_refused_by_the_service(make: Callable[..., tuple[Bench, Ingest]]) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    update = a.make_update()
    a.publish(dataclasses.replace(update, sealed=update.sealed[:-1] + b"\0"), "update")
    ingest.settle()
    assert a.receipts() == [("refused", "bad-seal")]
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)


def test_bytes_that_vanished_are_asked_for_again(
    make: Callable[..., tuple[Bench, Ingest]], caplog: pytest.LogCaptureFixture
) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    ingest.settings = None  # so that the service has to open it
    update = a.update()
    while ingest.worker.step(0) == 0:
        pass
    (staged,) = ingest.staging.waiting(limit=9)
    bench.blobs.remove(str(staged.blob))
    ingest.settle()
    assert (a.receipts(), len(facts_of(caplog, "staged-update-lost"))) == ([], 1)
    a.publish(update, "update")
    ingest.settle()
    assert a.receipts() == [("accepted", None)]


def test_what_no_task_takes_is_not_read_back(make: Callable[..., tuple[Bench, Ingest]]) -> None:
    bench, ingest = make()
    a = bench.device("a")
    join(bench, a)
    ingest.settings = None
    a.publish(dataclasses.replace(a.make_update(), sealed=bytes(50_000)), "update")
    ingest.settle()
    assert a.receipts() == [("refused", "oversize")]
    assert set(bench.blobs.sizes()) == bench.store.blobs_in_use(keep_folded=True)


def test_while_too_much_waits_for_the_service_nothing_is_taken_in(
    make: Callable[..., tuple[Bench, Ingest]], caplog: pytest.LogCaptureFixture
) -> None:
    bench, ingest = make(max_staged=1)
    devices = [bench.device(name) for name in "ab"]
    join(bench, *devices)
    devices[0].update()
    while ingest.worker.step(0) == 0:
        pass
    devices[1].update()
    assert [ingest.worker.step(0) for _ in range(3)] == [0, 0, 0]
    assert ingest.staging.n_waiting() == 1
    ingest.settle()
    assert bench.round == 2
    assert len(facts_of(caplog, "ingest-held-back")) == len(facts_of(caplog, "ingest-goes-on")) == 1


def test_a_large_update_in_chunks_is_opened_by_a_worker_too(make_large: Callable[..., Bench]) -> None:
    bench = make_large(has_workers=True)
    ingest = Ingest(bench)
    a, b = joined(bench, "a", "b")
    for device in (a, b):
        update = large_update(device)
        upload, data = device.manifest(update)
        device.begin(upload)
        for index in range(upload.n_chunks):
            device.chunk(upload, data, index)
        if device is b:
            b.begin(upload)  # it heard nothing, and asks: what was handed on once is decided on here
            assert b.receipts() == [("accepted", None)]
        ingest.settle()
        assert device.receipts()[0] == ("accepted", None)
        assert bench.upload_rows.manifest(device.name) is None
    assert (bench.version, ingest.staging.n_waiting()) == (1, 0)
    ingest.stop()


def test_kinds_of_messages_are_the_services_or_the_workers() -> None:
    from_service = {
        "announce",
        "work",
        "decline",
        "receipt",
        "certificate",
        "sum-next",
        "uploaded",
        "latest",
    }
    assert {*SERVICE_KINDS, "update"} | from_service == set(get_args(Kind))


def test_the_group_is_not_to_be_guessed() -> None:
    assert worker_filter("f", "0" * 32) != worker_filter("f", "1" * 32)
    assert worker_filter("f", "0" * 32).endswith("/ef/1/f/dev/+/up/update")


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"external": ("a", "a")}, "occurs twice"), ({"external": ("local-1",)}, "the service's own")],
)
def test_two_workers_cannot_have_one_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        IngestSettings(**settings)
