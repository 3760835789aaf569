"""Malformed, oversized, doubled, early, late and foreign messages: refused with a reason, and nothing changes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError, MalformedMessageError, RemoteProtocolError
from protocol.secure_sum import messages, server, shamir
from protocol.secure_sum.device_state import pack_state, unpack_state
from protocol.secure_sum.messages import (
    Consent,
    MaskedInput,
    Shares,
    SumPlan,
    Unmask,
    bitmap,
    members,
    pack,
    unpack,
)
from tests.protocol import strategies
from tests.protocol.secure_sum.parties import STEPS, Parties, name_of, plan_for

GOLDEN = Path(__file__).parent / "golden.v1.txt"
MESSAGES = (
    messages.Advert,
    messages.Roster,
    messages.Shares,
    messages.Delivery,
    messages.MaskedInput,
    messages.Survivors,
    messages.Consent,
    messages.Agreement,
    messages.Unmask,
)


def started(step: str, n: int = 4) -> tuple[Parties, dict[str, bytes]]:
    run = Parties(plan_for(n_params=2), n)
    return run, run.run_until(step)


def refused(run: Parties, sender: str, data: bytes) -> str:
    before = run.server.pack()
    with pytest.raises(RemoteProtocolError) as caught:
        run.server.receive(sender, data)
    assert run.server.pack() == before
    return caught.value.reason


def reply_of(run: Parties, step: str, index: int, sent: dict[str, bytes]) -> bytes:
    return run.answer(step, run.parties[name_of(index)], sent[name_of(index)])


@pytest.mark.parametrize("step", STEPS)
def test_the_second_message_of_a_device_in_a_step_is_refused(step: str) -> None:
    run, sent = started(step)
    reply = reply_of(run, step, 0, sent)
    run.server.receive(name_of(0), reply)
    assert refused(run, name_of(0), reply) == "duplicate"
    assert run.server.answered == {name_of(0)}


@pytest.mark.parametrize("step", STEPS)
def test_a_message_of_any_other_step_is_refused(step: str) -> None:
    run, _ = started(step)
    other = Parties(plan_for(n_params=2), 4)
    other.run_until()
    for sent_in in set(STEPS) - {step}:
        reason = refused(run, name_of(0), other.sent[sent_in, name_of(0)])
        assert reason in {"malformed", "oversize", "bad-signature", "not-survived"}


@pytest.mark.parametrize("step", STEPS)
def test_a_stranger_is_refused_at_every_step(step: str) -> None:
    run, sent = started(step)
    reply = reply_of(run, step, 0, sent)
    assert refused(run, "stranger", reply) == "unknown-device"


@pytest.mark.parametrize("step", ["adverts", "inputs", "consents"])
def test_a_signed_message_of_another_device_is_refused(step: str) -> None:
    run, sent = started(step)
    assert refused(run, name_of(1), reply_of(run, step, 0, sent)) == "bad-signature"


@pytest.mark.parametrize("step", STEPS)
def test_oversized_messages_are_refused_before_they_are_decoded(step: str) -> None:
    run, _ = started(step)
    assert refused(run, name_of(0), bytes(100_000)) == "oversize"


@settings(max_examples=30)
@given(st.binary(max_size=200), st.sampled_from(STEPS))
def test_no_bytes_break_the_server(data: bytes, step: str) -> None:
    run = STARTED[step]
    assert refused(run, name_of(0), data)


STARTED = {step: started(step)[0] for step in STEPS}
SENT = {step: started(step) for step in STEPS[1:]}


@settings(max_examples=30)
@given(st.binary(max_size=200), st.sampled_from(STEPS[1:]), st.integers(0, 10_000), st.integers(1, 255))
def test_no_bytes_break_a_device(data: bytes, step: str, at: int, flip: int) -> None:
    run, sent = SENT[step]
    party = run.parties[name_of(0)]
    before = party.state
    honest = sent[party.name]
    at %= len(honest)
    for wrong in (data, honest[:at], honest[:at] + bytes([honest[at] ^ flip]) + honest[at + 1 :]):
        with contextlib.suppress(RemoteProtocolError):  # and no other error
            run.answer(step, party, wrong)
            party.state = None
        assert party.state is None or party.state is before
        party.state = before  # a flipped bit in a sealed share is only noticed when it is opened


@settings(max_examples=60)
@given(st.sampled_from(MESSAGES), strategies.plain_values())
def test_no_value_breaks_a_reader(cls: type, value: object) -> None:
    from protocol import cbor

    try:
        data = cbor.dumps(value)
    except (OverflowError, ValueError, TypeError):
        return
    with pytest.raises(RemoteProtocolError):
        unpack(cls, data)


@settings(max_examples=20)
@given(st.data())
@pytest.mark.parametrize("cls", [*MESSAGES, SumPlan], ids=lambda cls: cls.__name__)
def test_every_message_reads_back_as_it_was_written(cls: type, data: st.DataObject) -> None:
    if cls in {SumPlan, messages.Roster, messages.Shares, messages.Advert}:
        message: object = {
            SumPlan: plan_for(clip=data.draw(st.floats(1e-3, 10))),
            messages.Roster: messages.Roster(names=("a", "b", "c"), digests=bytes(96), adverts=bytes(256)),
            messages.Shares: Shares(commitment=bytes(32), sealed=bytes(88)),
            messages.Advert: messages.Advert(mask_key=bytes(32), seal_key=bytes(32), signature=bytes(64)),
        }[cls]
    else:
        message = data.draw(strategies.instances(cls))
    assert unpack(cls, pack(message)) == message


def test_lists_of_another_length_are_refused() -> None:
    run, sent = started("shares")
    shares = unpack(Shares, reply_of(run, "shares", 0, sent))
    assert refused(run, name_of(0), pack(replace(shares, sealed=shares.sealed[:88]))) == "wrong-shape"
    run, sent = started("inputs")
    masked = unpack(MaskedInput, reply_of(run, "inputs", 0, sent))
    assert refused(run, name_of(0), pack(replace(masked, values=masked.values + b"\0"))) == "wrong-shape"
    run, sent = started("unmasking")
    unmask = unpack(Unmask, reply_of(run, "unmasking", 0, sent))
    assert refused(run, name_of(0), pack(replace(unmask, shares=unmask.shares[:-1]))) == "wrong-shape"
    assert refused(run, name_of(0), pack(replace(unmask, owners=b"\xff"))) == "bad-encoding"
    assert refused(run, name_of(0), pack(replace(unmask, owners=b"\x0f\x00"))) == "wrong-shape"


@pytest.mark.parametrize("n_wrong", [1, 2])
def test_wrong_shares_are_found_out_and_enough_right_ones_suffice(n_wrong: int) -> None:
    run, sent = started("unmasking", 6)  # threshold 4
    for i in range(6):
        unmask = unpack(Unmask, reply_of(run, "unmasking", i, sent))
        if i in [2, 3][:n_wrong]:
            unmask = replace(unmask, shares=bytes(len(unmask.shares)))
        run.server.receive(name_of(i), pack(unmask))
    run.server.close()
    assert run.server.step == "done"
    assert (run.server.total() == run.expected(run.server.survivors())).all()


@pytest.mark.parametrize("dropped", [(), (5,)])
def test_a_wrong_share_that_opens_a_plausible_secret_is_found_out(dropped: tuple[int, ...]) -> None:
    """Holder 0 moves the secret of device 5 by one in its first limb: only the commitment or public key tells."""
    run = Parties(plan_for(n_params=2), 6, {"inputs": dropped})
    sent = run.run_until("unmasking")
    answering = [0, 1, 2, 3]  # exactly the threshold, so there is no other choice of shares
    move = pow(int(shamir._weights_at_zero(answering)[0]), -1, shamir.PRIME)
    for i in answering:
        unmask = unpack(Unmask, reply_of(run, "unmasking", i, sent))
        if i == 0:
            at = 5 * shamir.SHARE_BYTES
            moved = (int.from_bytes(unmask.shares[at : at + 4], "little") + move) % shamir.PRIME
            shares = unmask.shares[:at] + moved.to_bytes(4, "little") + unmask.shares[at + 4 :]
            unmask = replace(unmask, shares=shares)
        run.server.receive(name_of(i), pack(unmask))
    run.server.close()
    assert (run.server.step, run.server.abort_reason) == ("aborted", "bad-shares")


def test_too_many_wrong_shares_end_the_sum_and_nothing_wrong_comes_out() -> None:
    run, sent = started("unmasking", 6)
    for i in range(6):
        unmask = unpack(Unmask, reply_of(run, "unmasking", i, sent))
        if i in {1, 3, 5}:
            unmask = replace(unmask, shares=bytes(len(unmask.shares)))
        run.server.receive(name_of(i), pack(unmask))
    run.server.close()
    assert (run.server.step, run.server.abort_reason) == ("aborted", "bad-shares")
    with pytest.raises(LocalProtocolError):
        run.server.total()


def test_a_consent_to_other_survivors_is_refused() -> None:
    run, sent = started("consents")
    reply = unpack(Consent, reply_of(run, "consents", 0, sent))
    assert refused(run, name_of(0), pack(replace(reply, signature=bytes(64)))) == "bad-signature"


def test_a_full_cohort_takes_no_more() -> None:
    run = Parties(plan_for(n_params=2, max_cohort=3), 4)
    replies = {name: run.answer("adverts", party, b"") for name, party in run.parties.items()}
    for name in sorted(replies)[:3]:
        run.server.receive(name, replies[name])
    assert refused(run, name_of(3), replies[name_of(3)]) == "out-of-step"


def test_after_the_end_nothing_is_taken_and_no_step_can_be_closed() -> None:
    run = Parties(plan_for(n_params=2), 3)
    run.run_until()
    assert refused(run, name_of(0), b"") == "out-of-step"
    with pytest.raises(LocalProtocolError, match="no step to close"):
        run.server.close()


def test_an_aborted_sum_has_forgotten_everything() -> None:
    run, _ = started("consents")
    run.server.abort("too-few-devices")
    again = server.SumServer.unpack(run.server.pack(), directory=run.directory)
    assert (again.step, again.abort_reason, again._total) == ("aborted", "too-few-devices", None)
    assert not any((again._adverts, again._sealed, again._commitments, again._inputs, again._consents, again._opened))


def test_a_plan_for_fewer_than_three_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3 devices"):
        plan_for(min_cohort=2)


def test_a_plan_that_could_wrap_is_refused_by_the_device() -> None:
    run = Parties(plan_for(input_bits=28, max_cohort=1000), 3)
    with pytest.raises(ConfigError, match="at most 32"):
        run.answer("adverts", run.parties[name_of(0)], b"")


def test_sets_are_bitmaps_without_spare_bits() -> None:
    assert bitmap([0, 3, 8], 9) == b"\x09\x01"
    assert members(b"\x09\x01", 9) == {0, 3, 8}
    with pytest.raises(RemoteProtocolError):
        members(b"\x09\x02", 9)


def test_a_stored_state_that_was_cut_off_is_refused() -> None:
    run, _ = started("consents")
    state = run.parties[name_of(0)].state
    assert state is not None
    with pytest.raises(MalformedMessageError):
        unpack_state(pack_state(state)[:-1])
    with pytest.raises(MalformedMessageError):
        server.SumServer.unpack(run.server.pack()[:-1], directory=run.directory)


def golden_lines() -> list[str]:
    """Return every message of a sum of three with a drop-out, as hex."""
    run = Parties(plan_for(n_params=2), 3, {"inputs": [1]})
    to_devices = {step: run_messages(step) for step in STEPS[1:]}
    run.run_until()
    lines = [f"{step} {name} {data.hex()}" for (step, name), data in sorted(run.sent.items())]
    lines += [
        f"{step} to {name} {data.hex()}" for step, all_ in to_devices.items() for name, data in sorted(all_.items())
    ]
    return [*lines, f"total {run.server.total().astype('<u4').tobytes().hex()}"]


def run_messages(step: str) -> dict[str, bytes]:
    return Parties(plan_for(n_params=2), 3, {"inputs": [1]}).run_until(step)


def test_every_message_has_its_golden_bytes() -> None:
    """A red test here means a new version of the secure sum, not a new golden file."""
    assert golden_lines() == GOLDEN.read_text("ascii").splitlines()
