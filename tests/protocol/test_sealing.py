from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SealError
from protocol.sealing import PRIVATE_KEY_BYTES, PUBLIC_KEY_BYTES, TaskKey, binding, seal
from tests.protocol import samples

INFO = binding(**samples.BINDING)  # type: ignore[arg-type]
PLAIN = b"what only the aggregator reads"
SEALED = seal(PLAIN, public_raw=samples.TASK_KEY.public_raw, info=INFO)
CHANGED: dict[str, Any] = {
    "fleet": "other",
    "task": "weather",
    "bundle_id": "cd" * 32,
    "round_": 4,
    "version": 3,
    "device": "pi-2",
    "update_id": bytes(16),
}


def test_what_is_sealed_opens_under_the_same_binding() -> None:
    assert samples.TASK_KEY.open(SEALED, info=INFO) == PLAIN


@given(st.binary(max_size=300))
def test_sealing_adds_1136_bytes_and_hides_the_rest(plain: bytes) -> None:
    sealed = seal(plain, public_raw=samples.TASK_KEY.public_raw, info=INFO)
    assert len(sealed) == len(plain) + 1136
    assert samples.TASK_KEY.open(sealed, info=INFO) == plain
    assert len(plain) < 8 or plain not in sealed


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_no_field_of_the_binding_can_be_another(field: str) -> None:
    info = binding(**(samples.BINDING | {field: CHANGED[field]}))
    with pytest.raises(SealError) as refused:
        samples.TASK_KEY.open(SEALED, info=info)
    assert refused.value.reason == "bad-seal"


def test_every_field_of_the_binding_is_tried() -> None:
    assert CHANGED.keys() == samples.BINDING.keys()


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SealError):
        TaskKey.generate().open(SEALED, info=INFO)


@given(st.integers(0, 8 * len(SEALED) - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        samples.TASK_KEY.open(bytes(changed), info=INFO)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 1088, 1119, 1120, 1135, 1136, len(SEALED) - 1])
def test_a_cut_message_is_refused(length: int) -> None:
    with pytest.raises(SealError):
        samples.TASK_KEY.open(SEALED[:length], info=INFO)


def test_the_same_text_is_sealed_differently_each_time() -> None:
    assert seal(PLAIN, public_raw=samples.TASK_KEY.public_raw, info=INFO) != SEALED


@pytest.mark.parametrize(
    "public", [b"", bytes(PUBLIC_KEY_BYTES - 1), b"\xff" * PUBLIC_KEY_BYTES, bytes(PUBLIC_KEY_BYTES)]
)
def test_a_public_key_that_is_none_is_refused(public: bytes) -> None:
    with pytest.raises(SealError):
        seal(PLAIN, public_raw=public, info=INFO)


def test_a_private_key_reads_back_and_does_not_show_itself() -> None:
    key = TaskKey.generate()
    assert len(key.raw) == PRIVATE_KEY_BYTES
    assert TaskKey(key.raw).public_raw == key.public_raw
    assert key.raw.hex()[:16] not in repr(key)
    with pytest.raises(ValueError, match="96 bytes"):
        TaskKey(key.raw[:-1])
