"""Tokens, claims and answers: what went in comes out, and nothing else is taken."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.enrolment import (
    MAX_CLAIM_BYTES,
    Claim,
    ClaimAnswer,
    Token,
    Welcome,
    fingerprint,
    open_answer,
    open_claim,
    pack_welcome,
    parse_token,
    seal_answer,
    seal_claim,
    token_text,
    unpack_welcome,
)
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.sealing import TaskKey
from protocol.signing import SigningKey

SERVICE_KEY, DEVICE_KEY, CLAIM_KEY, ANSWER_KEY = (
    SigningKey(bytes([1]) * 32),
    SigningKey(bytes([2]) * 32),
    TaskKey(bytes([3]) * 96),
    TaskKey(bytes([4]) * 96),
)
TOKEN = Token(fleet="f", url="mqtts://127.0.0.1:8884", welcome=bytes(32), secret=bytes(range(16)))
CLAIM = Claim(
    device="pi",
    secret=bytes(range(16)),
    verify_key=DEVICE_KEY.public.raw,
    answer_key=ANSWER_KEY.public_raw,
    request=b"request",
    unix_s=1.0,
)


def sealed_claim(claim: Claim = CLAIM, *, claim_id: str = "c1") -> bytes:
    return seal_claim(claim, fleet="f", claim_id=claim_id, claim_key=CLAIM_KEY.public_raw, key=DEVICE_KEY)


def sealed_answer(claim: bytes) -> bytes:
    answer = ClaimAnswer(claim=fingerprint(claim), status="pending", unix_s=2.0)
    return seal_answer(answer, fleet="f", claim_id="c1", answer_key=ANSWER_KEY.public_raw, key=SERVICE_KEY)


def test_a_token_is_one_short_word_that_reads_back() -> None:
    text = token_text(TOKEN)
    assert parse_token(f" {text}\n") == TOKEN
    assert len(text) < 200
    assert text.split() == [text]


@given(st.text(max_size=300))
def test_any_other_text_is_no_token_and_is_not_repeated(text: str) -> None:
    for one in (text, f"edgefold1-{text}"):
        with pytest.raises(ConfigError) as refused:
            parse_token(one)
        assert len(text) < 8 or text not in str(refused.value)


def test_a_token_that_was_cut_off_is_refused() -> None:
    for n in range(len(token_text(TOKEN)) - 1):
        with pytest.raises(ConfigError):
            parse_token(token_text(TOKEN)[:n])


def test_a_welcome_reads_back() -> None:
    key = SERVICE_KEY.public.raw
    welcome = Welcome(fleet="f", root=b"der", service_key=key, claim_key=CLAIM_KEY.public_raw)
    assert unpack_welcome(pack_welcome(welcome)) == welcome


def test_a_claim_opens_for_the_service_alone_and_hides_its_token() -> None:
    sealed = sealed_claim()
    assert open_claim(sealed, fleet="f", claim_id="c1", key=CLAIM_KEY) == CLAIM
    assert CLAIM.secret not in sealed
    assert b"pi" not in sealed[1200:1210]
    for fleet, claim_id, key in (("g", "c1", CLAIM_KEY), ("f", "c2", CLAIM_KEY), ("f", "c1", ANSWER_KEY)):
        with pytest.raises(RemoteProtocolError):
            open_claim(sealed, fleet=fleet, claim_id=claim_id, key=key)


def test_a_claim_with_another_devices_key_is_refused() -> None:
    stolen = dataclasses.replace(CLAIM, verify_key=SERVICE_KEY.public.raw)
    with pytest.raises(RemoteProtocolError) as refused:
        open_claim(sealed_claim(stolen), fleet="f", claim_id="c1", key=CLAIM_KEY)
    assert refused.value.reason == "bad-signature"


def test_an_answer_stands_for_its_claim_alone() -> None:
    mine, other = sealed_claim(), sealed_claim()
    sealed = sealed_answer(mine)
    bound = {"fleet": "f", "claim_id": "c1", "answer_key": ANSWER_KEY}
    service = SERVICE_KEY.public
    assert open_answer(sealed, claim=mine, service_key=service, **bound).status == "pending"  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="another claim"):
        open_answer(sealed, claim=other, service_key=service, **bound)  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="signature"):
        open_answer(sealed, claim=mine, service_key=DEVICE_KEY.public, **bound)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 3000))
def test_no_bytes_crash_the_opening_of_a_claim(noise: bytes, at: int) -> None:
    changed = bytearray(sealed_claim())
    changed[at % len(changed)] ^= 1
    for data in (noise, bytes(changed), bytes(MAX_CLAIM_BYTES + 1)):
        with pytest.raises(RemoteProtocolError):
            open_claim(data, fleet="f", claim_id="c1", key=CLAIM_KEY)
