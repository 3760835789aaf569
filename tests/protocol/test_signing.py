from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor
from protocol.errors import BadSignatureError, MalformedMessageError, RemoteProtocolError
from protocol.messages import Kind, pack_envelope, unpack_envelope
from protocol.signing import SERVICE, SigningKey, VerifyKey, open_envelope, sign, signed_bytes
from tests.protocol import samples

OTHER = SigningKey(bytes(32))
JOIN = sign(samples.BODIES["join"], fleet=samples.FLEET, sender=samples.DEVICE, key=samples.KEY)


def test_a_signed_body_opens_under_the_senders_key() -> None:
    opened = open_envelope(unpack_envelope(JOIN), fleet=samples.FLEET, key=samples.KEY.public)
    assert opened == samples.BODIES["join"]


def test_any_flipped_bit_is_refused() -> None:
    for bit in range(8 * len(JOIN)):
        changed = bytearray(JOIN)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            open_envelope(unpack_envelope(bytes(changed)), fleet=samples.FLEET, key=samples.KEY.public)


@given(st.integers(0, len(JOIN) - 1))
def test_a_cut_envelope_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessageError):
        unpack_envelope(JOIN[:length])


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "join"])
def test_a_signature_does_not_hold_for_another_kind(kind: Kind) -> None:
    swapped = dataclasses.replace(unpack_envelope(JOIN), kind=kind)
    with pytest.raises(BadSignatureError):
        open_envelope(swapped, fleet=samples.FLEET, key=samples.KEY.public)


def test_a_signature_does_not_hold_for_another_sender_fleet_or_key() -> None:
    envelope = unpack_envelope(JOIN)
    for sender in ("pi-2", SERVICE):
        with pytest.raises(BadSignatureError, match=sender):
            open_envelope(dataclasses.replace(envelope, sender=sender), fleet=samples.FLEET, key=samples.KEY.public)
    with pytest.raises(BadSignatureError):
        open_envelope(envelope, fleet="other", key=samples.KEY.public)
    with pytest.raises(BadSignatureError):
        open_envelope(envelope, fleet=samples.FLEET, key=OTHER.public)


def test_a_body_is_looked_at_only_after_its_signature_held() -> None:
    forged = dataclasses.replace(unpack_envelope(JOIN), body=b"not CBOR")
    with pytest.raises(BadSignatureError):
        open_envelope(forged, fleet=samples.FLEET, key=samples.KEY.public)


def test_a_body_that_is_signed_but_malformed_is_refused_as_malformed() -> None:
    body = cbor.dumps({"task": "mood"})
    message = signed_bytes(fleet=samples.FLEET, kind="join", sender=samples.DEVICE, body=body)
    signed = dataclasses.replace(unpack_envelope(JOIN), body=body, signature=samples.KEY.sign(message))
    with pytest.raises(MalformedMessageError, match="missing"):
        open_envelope(unpack_envelope(pack_envelope(signed)), fleet=samples.FLEET, key=samples.KEY.public)


def test_what_is_signed_cannot_be_read_in_two_ways() -> None:
    one = signed_bytes(fleet="a", kind="join", sender="bc", body=b"d")
    other = signed_bytes(fleet="ab", kind="join", sender="c", body=b"d")
    assert one != other


def test_signing_is_ed25519_as_rfc_8032_has_it() -> None:
    # RFC 8032, section 7.1, TEST 2.
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")


def test_keys_of_another_length_are_refused_and_none_shows_itself() -> None:
    with pytest.raises(ValueError, match="32"):
        SigningKey(bytes(31))
    with pytest.raises(ValueError, match="32"):
        VerifyKey(bytes(33))
    key = SigningKey.generate()
    assert key.raw.hex() not in repr(key)
    assert SigningKey(key.raw).public.raw == key.public.raw
