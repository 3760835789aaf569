"""What a server that does not follow the steps gets: nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.errors import BadSignatureError, LocalProtocolError, RemoteProtocolError
from protocol.secure_sum import device, keys
from protocol.secure_sum.device_state import DeviceView, pack_state
from protocol.secure_sum.messages import (
    SHARE_BYTES,
    Advert,
    Agreement,
    Consent,
    Delivery,
    Roster,
    Survivors,
    Unmask,
    bitmap,
    members,
    pack,
    unpack,
)
from protocol.secure_sum.roster import advert_digest
from tests.protocol.secure_sum.parties import Parties, Party, name_of, plan_for, seed

N = 6  # complete graph, threshold 4
PLAN = plan_for(n_params=2)


def at(step: str, **changes: object) -> tuple[Parties, dict[str, bytes]]:
    """Return an honest run just before ``step``, and what the server is about to send."""
    run = Parties(PLAN, N, **changes)  # type: ignore[arg-type]
    return run, run.run_until(step)


def refused(run: Parties, step: str, index: int, data: bytes) -> str:
    """Return why a device refuses; its state must not have changed."""
    party = run.parties[name_of(index)]
    before = party.state
    with pytest.raises(RemoteProtocolError) as caught:
        run.answer(step, party, data)
    assert party.state is before
    return caught.value.reason


def survivors_for(run: Parties, index: int, alive: set[int]) -> bytes:
    near = sorted(alive - {index})
    signatures = b"".join(run.server._inputs[other] for other in near)
    return pack(Survivors(survivors=bitmap(alive, N), signatures=signatures))


def consents_for(index: int, consents: dict[int, bytes]) -> bytes:
    near = sorted(set(consents) - {index})
    return pack(Agreement(consenters=bitmap(near, N), signatures=b"".join(consents[i] for i in near)))


def test_two_sets_of_survivors_shown_to_two_halves_open_nothing() -> None:
    run, _ = at("consents")
    shown = {i: {0, 1, 2, 3, 4, 5} - {5 if i < 3 else 0} for i in range(1, 5)}
    consents = {}
    for i, alive in shown.items():
        reply = run.answer("consents", run.parties[name_of(i)], survivors_for(run, i, alive))
        consents[i] = unpack(Consent, reply).signature
    # Each device is offered the consents of its half, then everybody's.
    for i, alive in shown.items():
        half = {j: one for j, one in consents.items() if shown[j] == alive}
        assert refused(run, "unmasking", i, consents_for(i, half)) == "no-agreement"
        assert refused(run, "unmasking", i, consents_for(i, consents)) == "bad-signature"


def test_a_device_that_answered_and_is_called_dropped_gives_nothing() -> None:
    run, _ = at("consents")
    assert refused(run, "consents", 0, survivors_for(run, 0, {1, 2, 3, 4, 5})) == "not-survived"


def test_too_few_survivors_are_refused() -> None:
    run, _ = at("consents")
    assert refused(run, "consents", 0, survivors_for(run, 0, {0, 1, 2})) == "not-survived"


def test_a_survivor_who_never_shared_is_refused() -> None:
    run, _ = at("consents", drops={"shares": [5]})
    message = Survivors(survivors=bitmap(range(N), N), signatures=bytes(64 * 5))
    assert refused(run, "consents", 0, pack(message)) == "not-survived"


def test_a_device_signs_one_set_of_survivors_in_its_life() -> None:
    run, _ = at("consents")
    run.answer("consents", run.parties[name_of(0)], survivors_for(run, 0, {0, 1, 2, 3, 4}))
    assert refused(run, "consents", 0, survivors_for(run, 0, {0, 1, 2, 3, 4, 5})) == "out-of-step"


def test_a_device_gives_one_share_of_each_neighbour_and_then_holds_no_secret() -> None:
    run, messages = at("unmasking", drops={"inputs": [5]})
    party = run.parties[name_of(0)]
    before = party.state
    assert before is not None
    reply = unpack(Unmask, run.answer("unmasking", party, messages[party.name]))
    assert members(reply.owners, N) == frozenset(range(N))
    assert len(reply.shares) == N * SHARE_BYTES  # one each: not both
    assert refused(run, "unmasking", 0, messages[party.name]) == "out-of-step"
    assert party.state is not None
    assert (party.state.entropy, party.state.roster, party.state.delivery) == (b"", None, None)
    assert before.entropy not in pack_state(party.state)


@pytest.mark.parametrize("dropped", [(), (5,), (2, 5)])
def test_the_share_is_of_the_self_mask_of_survivors_and_of_the_key_of_the_others(dropped: tuple[int, ...]) -> None:
    run, messages = at("unmasking", drops={"inputs": dropped})
    states = {i: run.parties[name_of(i)].state for i in range(N)}
    reply = unpack(Unmask, run.answer("unmasking", run.parties[name_of(0)], messages[name_of(0)]))
    given = {i: reply.shares[SHARE_BYTES * i : SHARE_BYTES * (i + 1)] for i in range(N)}
    for owner, state in states.items():
        assert state is not None
        pair = DeviceView.of(state).own_shares()[0]
        assert given[owner] == (pair[SHARE_BYTES:] if owner in dropped else pair[:SHARE_BYTES])


def test_a_share_of_the_first_vector_is_never_given_for_a_second_vector() -> None:
    run, messages = at("inputs")
    run.answer("inputs", run.parties[name_of(0)], messages[name_of(0)])
    run.parties[name_of(0)].vector = run.parties[name_of(1)].vector
    assert refused(run, "inputs", 0, messages[name_of(0)]) == "out-of-step"


def forged_roster(run: Parties, message: bytes, receiver: int, victim: int, *, is_digest_forged: bool) -> bytes:
    """Return the roster with the server's own keys in place of the victim's."""
    roster = unpack(Roster, message)
    mask_key, seal_key = keys.public_of(seed("server mask")), keys.public_of(seed("server seal"))
    place = sorted(set(range(N)) - {receiver}).index(victim)
    old = roster.adverts[128 * place : 128 * (place + 1)]
    adverts = roster.adverts.replace(old, mask_key + seal_key + old[64:])
    digests = roster.digests
    if is_digest_forged:
        advert = Advert(mask_key=mask_key, seal_key=seal_key, signature=bytes(64))
        digest = advert_digest(run.plan, name_of(victim), advert)
        digests = digests[: 32 * victim] + digest + digests[32 * (victim + 1) :]
    return pack(replace(roster, adverts=adverts, digests=digests))


@pytest.mark.parametrize(("is_digest_forged", "reason"), [(True, "bad-signature"), (False, "bad-roster")])
def test_the_server_cannot_take_a_devices_place(*, is_digest_forged: bool, reason: str) -> None:
    run, messages = at("shares")
    forged = forged_roster(run, messages[name_of(0)], 0, 3, is_digest_forged=is_digest_forged)
    assert refused(run, "shares", 0, forged) == reason


def test_a_device_that_is_in_no_directory_is_no_neighbour() -> None:
    run, messages = at("shares")
    del run.directory[name_of(3)]
    assert refused(run, "shares", 0, messages[name_of(0)]) == "unknown-device"


def test_a_device_finds_other_keys_of_its_own_in_the_roster() -> None:
    run, messages = at("shares")
    roster = unpack(Roster, messages[name_of(0)])
    changed = pack(replace(roster, digests=bytes(32) + roster.digests[32:]))
    assert refused(run, "shares", 0, changed) == "bad-roster"


@pytest.mark.parametrize(
    "names",
    [("device-0000", "device-0001"), tuple(f"device-000{i}" for i in (0, 2, 1)), ("device-0000",) * 3],
    ids=["two", "disordered", "doubled"],
)
def test_a_roster_that_is_none_is_refused(names: tuple[str, ...]) -> None:
    run, messages = at("shares")
    roster = unpack(Roster, messages[name_of(0)])
    wrong = {"names": list(names), "digests": bytes(96), "adverts": roster.adverts[:256]}
    assert refused(run, "shares", 0, pack(wrong)) in {"bad-roster", "malformed"}


def test_neighbours_who_masked_with_other_devices_are_noticed_before_anything_is_signed() -> None:
    """The server tells device 0 that device 5 did not share, so that its mask with 5 is missing."""
    run, messages = at("inputs")
    honest = unpack(Delivery, messages[name_of(0)])
    without = Delivery(sharers=bitmap(range(5), N), sealed=honest.sealed[: 4 * 88])
    reply_of_0 = run.answer("inputs", run.parties[name_of(0)], pack(without))
    for i in range(1, N):
        reply = run.answer("inputs", run.parties[name_of(i)], messages[name_of(i)])
        run.server.receive(name_of(i), reply)
    with pytest.raises(BadSignatureError):
        run.server.receive(name_of(0), reply_of_0)
    signatures = b"".join(run.server._inputs[i] for i in range(1, 5))
    message = Survivors(survivors=bitmap(range(5), N), signatures=signatures)
    assert refused(run, "consents", 0, pack(message)) == "bad-signature"


def test_a_delivery_that_leaves_oneself_or_too_many_out_is_refused() -> None:
    run, messages = at("inputs")
    honest = unpack(Delivery, messages[name_of(0)])
    for sharers in ({1, 2, 3, 4, 5}, {0, 1, 2}):
        near = len(sharers - {0})
        message = Delivery(sharers=bitmap(sharers, N), sealed=honest.sealed[: 88 * near])
        assert refused(run, "inputs", 0, pack(message)) == "not-shared"


def test_shares_that_were_exchanged_on_the_way_open_nothing() -> None:
    run, messages = at("inputs")
    honest = unpack(Delivery, messages[name_of(0)])
    swapped = honest.sealed[88:176] + honest.sealed[:88] + honest.sealed[176:]
    messages[name_of(0)] = pack(replace(honest, sealed=swapped))
    for name, data in messages.items():
        run.server.receive(name, run.answer("inputs", run.parties[name], data))
    for name, data in run.server.close().items():
        run.server.receive(name, run.answer("consents", run.parties[name], data))
    agreement = run.server.close()
    reply = unpack(Unmask, run.answer("unmasking", run.parties[name_of(0)], agreement[name_of(0)]))
    assert members(reply.owners, N) == {0, 3, 4, 5}


def test_what_one_plan_signed_is_no_use_under_another() -> None:
    run, messages = at("shares")
    other = Parties(plan_for(n_params=2, clip=2.0), N)
    party: Party = other.parties[name_of(0)]
    party.state, _ = device.advertise(
        other.plan, name=party.name, key=party.key, entropy=seed("entropy", party.name, 0)
    )
    assert refused(other, "shares", 0, messages[name_of(0)]) == "bad-roster"
    with pytest.raises(BadSignatureError):
        other.server.receive(name_of(1), run.sent["adverts", name_of(1)])


def test_an_aborted_device_holds_no_secret_and_takes_nothing() -> None:
    run, messages = at("inputs")
    party = run.parties[name_of(0)]
    assert party.state is not None
    entropy = party.state.entropy
    party.state = device.abort(party.state)
    assert entropy not in pack_state(party.state)
    assert refused(run, "inputs", 0, messages[name_of(0)]) == "out-of-step"
    with pytest.raises(RemoteProtocolError):
        device.abort(party.state)


def test_a_device_without_entropy_does_not_begin() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes of entropy"):
        device.advertise(PLAN, name="a", key=Parties(PLAN, 3).parties[name_of(0)].key, entropy=bytes(16))


def test_a_state_shows_nothing_of_its_secrets() -> None:
    run, _ = at("shares")
    state = run.parties[name_of(0)].state
    assert state is not None
    assert state.entropy.hex() not in repr(state)
    assert repr(state.entropy) not in repr(state)
