from __future__ import annotations

import time
import tracemalloc

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import cbor
from protocol.errors import MalformedMessageError, MessageTooLargeError, RemoteProtocolError
from tests.protocol import samples, strategies

MAX_BYTES = 1 << 20


def is_loaded(data: bytes) -> bool:
    """Return whether ``data`` is taken; anything but the declared errors fails the test."""
    try:
        value = cbor.loads(data, max_bytes=MAX_BYTES)
    except RemoteProtocolError:
        return False
    assert cbor.dumps(value) == data
    return True


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xf7")
@example(b"\xf8\xff")
@example(b"\xff")
def test_arbitrary_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    is_loaded(data)


@given(strategies.plain_values())
def test_arbitrary_cbor_gives_a_value_or_a_refusal(value: object) -> None:
    is_loaded(cbor2.dumps(value))
    is_loaded(cbor2.dumps(value, canonical=True))


@given(st.sampled_from(sorted(samples.golden_values())), st.data())
def test_a_changed_message_gives_a_value_or_a_refusal(name: str, data: st.DataObject) -> None:
    whole = bytearray(samples.golden(name))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    is_loaded(bytes(whole))


@given(st.dictionaries(st.text(max_size=30), st.integers(-(2**63), 2**63), max_size=6))
def test_encoding_does_not_depend_on_the_order_of_insertion(value: dict[str, int]) -> None:
    assert cbor.dumps(dict(reversed(value.items()))) == cbor.dumps(value)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a longer head than needed", b"\x18\x01"),
        ("a double for a half", b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        ("another NaN", b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
        ("unsorted keys", b"\xa2\x61b\x01\x61a\x02"),
        ("a repeated key", b"\xa2\x61a\x01\x61a\x02"),
        ("an integer key", b"\xa1\x01\x02"),
        ("a byte after the value", b"\x01\x01"),
        ("an indefinite array", b"\x9f\x01\xff"),
        ("an indefinite string", b"\x5f\x41\x01\xff"),
        ("undefined", b"\xf7"),
        ("a simple value", b"\xf0"),
        ("text that is not UTF-8", b"\x61\xff"),
        ("nothing", b""),
    ],
)
def test_one_value_has_one_encoding(what: str, data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        cbor.loads(data, max_bytes=MAX_BYTES)
    assert what


@pytest.mark.parametrize("tag", [0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 43000, 55799])
def test_every_tag_is_refused(tag: int) -> None:
    with pytest.raises(MalformedMessageError, match="tag"):
        cbor.loads(cbor2.dumps(cbor2.CBORTag(tag, "x")), max_bytes=MAX_BYTES)


def test_values_within_the_depth_are_taken_and_deeper_ones_refused() -> None:
    assert is_loaded(b"\x81" * cbor.MAX_DEPTH + b"\x01")
    assert not is_loaded(b"\x81" * (cbor.MAX_DEPTH + 1) + b"\x01")


def test_values_with_more_items_than_any_message_has_are_refused() -> None:
    assert is_loaded(cbor.dumps([0] * (cbor.MAX_ITEMS - 1)))
    assert not is_loaded(cbor.dumps([0] * cbor.MAX_ITEMS))


def test_a_message_beyond_its_bound_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(MessageTooLargeError):
        cbor.loads(b"\x00" * 11, max_bytes=10)


def test_a_bomb_makes_no_more_objects_than_a_message_may_have() -> None:
    bomb = b"\x9a\x00\x0f\x42\x3f" + b"\x80" * (MAX_BYTES - 5)  # a million empty arrays: 64 MB of objects
    tracemalloc.start()
    try:
        began = time.perf_counter()
        assert not is_loaded(bomb)
        assert time.perf_counter() - began < 1  # measured 1 ms
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


LONG = 5000  # beyond what is decoded and encoded again


@given(strategies.plain_values(), st.lists(st.binary(min_size=LONG, max_size=LONG + 5), max_size=3), st.binary())
def test_long_byte_strings_come_back_where_they_were(value: object, long: list[bytes], short: bytes) -> None:
    whole = {"a": short, "b": long, "c": {"d": [value, *long, short], "e": b""}, "f": b"x" * 70_000}
    data = cbor.dumps(whole)
    if is_loaded(data):
        assert cbor.loads(data, max_bytes=MAX_BYTES) == cbor2.loads(data)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a longer head than needed", b"\x5a\x00\x00\x13\x88" + bytes(LONG)),
        ("a head of eight bytes", b"\x5b\x00\x00\x00\x00\x00\x00\x13\x88" + bytes(LONG)),
        ("a byte after it", b"\x59\x13\x88" + bytes(LONG + 1)),
        ("a byte too few", b"\x59\x13\x88" + bytes(LONG - 1)),
        ("unsorted keys beside it", b"\xa2\x61b\x59\x13\x88" + bytes(LONG) + b"\x61a\x02"),
        ("it is a key", b"\xa1\x59\x13\x88" + bytes(LONG) + b"\x02"),
        ("twice a key", b"\xa2\x59\x13\x88" + bytes(LONG) + b"\x02\x59\x13\x88" + bytes(LONG) + b"\x02"),
    ],
)
def test_a_long_byte_string_has_one_encoding_and_is_no_key(what: str, data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        cbor.loads(data, max_bytes=MAX_BYTES)
    assert what


def test_short_keys_of_bytes_do_not_shift_long_byte_strings() -> None:
    data = cbor.dumps({b"": 1, b"k": bytes(LONG), "t": [b"", b"y" * LONG]})
    assert cbor.loads(data, max_bytes=MAX_BYTES) == cbor2.loads(data)
