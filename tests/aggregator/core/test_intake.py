"""Every reason for which a message is refused: it is counted, a known sender is told, the round is unharmed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.intake import IntakeContext, Refused, decide
from protocol import cbor, codec, signing, topics
from protocol.bounds import MAX_ROUND
from protocol.messages import Announce, Decline, Join, Receipt, Renew, Update, Work, unpack_body, unpack_envelope
from protocol.plan import Codec
from protocol.reasons import Reason
from tests.aggregator.workbench import FLEET, N_PARAMS, TASK, Bench, Device, Devices

if TYPE_CHECKING:
    from collections.abc import Callable

# What a secure sum refuses is in tests/aggregator/test_sum_round.py.
OF_SUMS = {"no-certificate", "out-of-step", "not-shared", "not-survived", "wrong-privacy"}
OF_SEALED_ADAPTERS = {"no-seal-key"}  # tests/aggregator/test_sealed_adapter.py
OF_BUFFERS = {"stale"}  # tests/aggregator/test_async_runner.py
OF_UPLOADS = {"bad-chunk", "too-often"}  # tests/aggregator/test_uploads.py, test_latest.py
ELSEWHERE = OF_SUMS | OF_SEALED_ADAPTERS | OF_BUFFERS | OF_UPLOADS
REASONS: tuple[Reason, ...] = tuple(one for one in get_args(Reason) if one not in ELSEWHERE)
FLOAT32 = Codec(name="float32")


def send(device: Device, update: Update) -> None:
    device.publish(update, "update")


def malformed(_bench: Bench, a: Device, _b: Device) -> None:
    a.link.publish(topics.up(FLEET, a.name, "update"), b"\xffno message of ours")


def oversize(bench: Bench, a: Device, _b: Device) -> None:
    a.link.publish(topics.up(FLEET, a.name, "update"), bytes(bench.setup.max_message_bytes + 1))


def unknown_device(bench: Bench, _a: Device, _b: Device) -> None:
    Device(bench, "stranger").join()


def wrong_sender(_bench: Bench, a: Device, b: Device) -> None:
    payload = signing.sign(a.make_update(), fleet=FLEET, sender=a.name, key=a.key)
    b.link.publish(topics.up(FLEET, b.name, "update"), payload)


def bad_signature(_bench: Bench, a: Device, b: Device) -> None:
    a.publish(a.make_update(), "update", key=b.key)


def wrong_task(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(task="another"))


def wrong_bundle(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(bundle_id="0" * 64))


def wrong_round(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(round=MAX_ROUND))


def late(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(round=1, version=0, seed=99))


def wrong_version(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(version=0))


def not_selected(bench: Bench, _a: Device, _b: Device) -> None:
    bench.device("c").join()


def not_joined(bench: Bench, a: Device, _b: Device) -> None:
    c = bench.device("c")
    c.update(work=a.last(Work))


def replayed(_bench: Bench, a: Device, _b: Device) -> None:
    """Last round's update again, its id in a new envelope for this round."""
    old = a.make_update(work=next(work for work in a.all(Work) if work.round == 1))
    send(a, a.make_update(update_id=old.update_id))


def duplicate(bench: Bench, a: Device, _b: Device) -> None:
    a.update()
    bench.settle()
    a.update(seed=1)


def bad_seal(_bench: Bench, a: Device, _b: Device) -> None:
    update = a.make_update()
    send(a, dataclasses.replace(update, sealed=update.sealed[:-1] + bytes([update.sealed[-1] ^ 1])))


def wrong_shape(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(payload=codec.encode(np.zeros(N_PARAMS - 1, np.float32), FLOAT32)))


def not_finite(_bench: Bench, a: Device, _b: Device) -> None:
    values = np.full(N_PARAMS, np.nan, "<f4").tobytes()
    send(a, a.make_update(payload=cbor.dumps({"encoding": "float32", "n_values": N_PARAMS, "values": values})))


def bad_encoding(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(payload=b"\x01"))


def norm_exceeded(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(delta=np.full(N_PARAMS, 1.1 / np.sqrt(N_PARAMS), np.float32)))


def bad_examples(_bench: Bench, a: Device, _b: Device) -> None:
    send(a, a.make_update(n_examples=1001))


def finished(bench: Bench, a: Device, b: Device) -> None:
    for device in (a, b):
        device.update()
        bench.settle()
    bench.device("c").join()


def paused(bench: Bench, _a: Device, _b: Device) -> None:
    assert bench.command("pause") == ("done", "")
    bench.device("c").join()


def revoked(bench: Bench, _a: Device, _b: Device) -> None:
    c = bench.device("c")
    bench.devices.revoked.add("c")
    c.join()


def bad_renewal(_bench: Bench, a: Device, _b: Device) -> None:
    """This fleet has no authority."""
    a.publish(Renew(request=b"a request"), "renew")


ATTACKS: dict[str, Callable[[Bench, Device, Device], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        malformed, oversize, unknown_device, wrong_sender, bad_signature, wrong_task, wrong_bundle, wrong_round, late,
        wrong_version, not_selected, not_joined, replayed, duplicate, bad_seal, wrong_shape, not_finite, bad_encoding,
        norm_exceeded, bad_examples, finished, revoked, bad_renewal, paused,
    )
}  # fmt: skip
UNVERIFIED = {"malformed", "oversize", "unknown-device", "wrong-sender", "bad-signature", "revoked", "bad-renewal"}


def test_every_reason_of_the_protocol_has_an_attack_here() -> None:
    assert ATTACKS.keys() == set(REASONS)


def in_second_round(make_bench: Callable[..., Bench], name: str) -> tuple[Bench, Device, Device]:
    bench = make_bench(name)
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    for device in (a, b):
        device.join()
        bench.settle()
    return bench, a, b


@pytest.mark.parametrize("reason", REASONS)
def test_a_refused_message_is_counted_and_the_round_completes_unharmed(
    reason: Reason, make_bench: Callable[..., Bench]
) -> None:
    calm, *devices = in_second_round(make_bench, "calm")
    for device in devices:
        device.update()
        calm.settle()

    bench, a, b = in_second_round(make_bench, "attacked")
    ATTACKS[reason](bench, a, b)
    bench.settle()
    assert bench.refusals() == {reason: 1}
    for device in (a, b):
        device.update()
        bench.settle()
    assert bench.version == 2
    assert bench.adapter_bytes() == calm.adapter_bytes()


@pytest.mark.parametrize("reason", REASONS)
def test_a_known_device_is_told_why_and_a_stranger_is_not_answered(
    reason: Reason, make_bench: Callable[..., Bench]
) -> None:
    bench, a, b = in_second_round(make_bench, "bench")
    n_sent = len(bench.broker.traffic)
    ATTACKS[reason](bench, a, b)
    bench.settle()
    told = [body.reason for _, body in service_messages(bench, since=n_sent) if isinstance(body, (Receipt, Decline))]
    assert (reason in told) == (reason not in UNVERIFIED)


def service_messages(bench: Bench, *, since: int) -> list[tuple[str, Any]]:
    sent = [(topic, data) for topic, data in bench.broker.traffic[since:] if "/down/" in topic]
    envelopes = [(topic, unpack_envelope(data)) for topic, data in sent]
    return [(topic, unpack_body(one.kind, one.body)) for topic, one in envelopes]


def test_an_oversize_message_is_not_decoded(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    a = bench.device("a")
    monkeypatch.setattr("cbor2.loads", lambda *_, **__: pytest.fail("decoded"))
    oversize(bench, a, a)
    bench.settle()
    assert bench.refusals() == {"oversize": 1}


def test_a_sealed_update_above_its_own_tasks_bound_is_oversize(bench: Bench) -> None:
    a = bench.device("a")
    a.join()
    bench.settle()
    large = dataclasses.replace(a.make_update(), sealed=bytes(bench.setup.max_message_bytes + 1))
    bench.service._intake = dataclasses.replace(bench.service._intake, max_bytes=10**6)
    send(a, large)
    bench.settle()
    assert bench.refusals() == {"oversize": 1}


def test_a_resent_update_gets_its_accepted_receipt_again(bench: Bench) -> None:
    a = bench.device("a")
    a.join()
    bench.settle()
    update = a.update()
    send(a, update)
    send(a, update)
    bench.settle()
    assert a.receipts() == [("accepted", None)] * 3
    assert bench.refusals() == {"replayed": 2}
    assert len(bench.store.updates(TASK, 1)) == 1


def test_an_accepted_update_is_acknowledged_again_rounds_later(bench: Bench) -> None:
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b, rounds=1)
    a.update(work=next(work for work in a.all(Work) if work.round == 1))
    bench.settle()
    assert a.receipts()[-1] == ("accepted", None)
    assert bench.version == 1


def test_another_devices_update_id_does_not_count_as_ones_own(bench: Bench) -> None:
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        device.join()
        bench.settle()
    taken = a.update()
    bench.settle()
    send(b, b.make_update(update_id=taken.update_id))
    bench.settle()
    assert b.receipts() == [("refused", "replayed")]


def test_a_seal_made_for_another_device_does_not_open(bench: Bench) -> None:
    a, b = bench.device("a"), bench.device("b")
    for device in (a, b):
        device.join()
        bench.settle()
    send(b, a.make_update())
    bench.settle()
    assert b.receipts() == [("refused", "bad-seal")]


def test_content_that_is_no_content_is_malformed_and_answered(bench: Bench) -> None:
    a = bench.device("a")
    a.join()
    bench.settle()
    send(a, a.make_update(content=cbor.dumps({"n_examples": 0})))
    bench.settle()
    assert a.receipts() == [("refused", "malformed")]


def test_a_message_on_another_kinds_topic_is_malformed(bench: Bench) -> None:
    a = bench.device("a")
    a.publish(Announce(task=TASK, state="open", round=1, version=0, bundle_id=bench.bundle_id), "announce")
    a.publish(a_join(bench), "update")
    bench.settle()
    assert bench.refusals() == {"malformed": 2}


def a_join(bench: Bench) -> Join:
    return Join(task=TASK, round=1, bundle_id=bench.bundle_id)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "another"}, "wrong-task"),
        ({"bundle_id": "0" * 64}, "wrong-bundle"),
        ({"round": 7}, "wrong-round"),
    ],
)
def test_a_join_for_something_else_is_declined(changes: dict[str, Any], reason: Reason, bench: Bench) -> None:
    a = bench.device("a")
    a.join(**changes)
    bench.settle()
    assert a.last(Decline).reason == reason
    assert bench.refusals() == {reason: 1}


def test_a_join_of_a_closed_round_is_late(bench: Bench) -> None:
    a, b = bench.device("a"), bench.device("b")
    bench.play(a, b)
    a.join(round_=1)
    bench.settle()
    assert a.last(Decline).reason == "late"


def test_a_join_after_ones_own_update_is_declined_as_duplicate(bench: Bench) -> None:
    a = bench.device("a")
    a.join()
    bench.settle()
    a.update()
    a.join()
    bench.settle()
    assert a.last(Decline).reason == "duplicate"
    assert len(a.all(Work)) == 1


class NoLedger:
    """Knows nothing; an intake that asks it too early fails the test."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"{name} was asked before the message was verified")


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300), topic=st.text(max_size=40) | st.just(f"ef/1/{FLEET}/dev/a/up/update"))
def test_no_bytes_of_a_stranger_reach_the_ledger_or_raise(payload: bytes, topic: str) -> None:
    ledger: Any = NoLedger()
    context = IntakeContext(fleet=FLEET, devices=Devices(), ledger=ledger, max_bytes=250)
    decision = decide(topic, payload, context)
    assert isinstance(decision, Refused)
    assert decision.reason in UNVERIFIED
