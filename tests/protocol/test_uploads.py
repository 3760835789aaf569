"""Cutting and joining: any message, in any order of its chunks; anything else is refused by name."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import uploads
from protocol.errors import RemoteProtocolError
from protocol.fields import FieldError
from protocol.uploads import (
    MAX_CHUNKS,
    MIN_CHUNK_BYTES,
    Chunk,
    Upload,
    check_chunk,
    chunk_size,
    chunk_span,
    hashes_of,
    pack_have,
    unpack_have,
    whole,
)

DATA = hashlib.shake_128(b"a message").digest(3 * MIN_CHUNK_BYTES + 100)


def cut(data: bytes = DATA, chunk_bytes: int = MIN_CHUNK_BYTES) -> tuple[Upload, list[Chunk]]:
    digest, hashes = hashes_of(len(data), chunk_bytes, lambda at, n: data[at : at + n])
    upload = Upload(
        task="t",
        round=1,
        version=0,
        bundle_id="b" * 64,
        update_id=bytes(16),
        n_bytes=len(data),
        digest=digest,
        chunk_bytes=chunk_bytes,
        hashes=hashes,
    )
    spans = [chunk_span(len(data), chunk_bytes, index) for index in range(upload.n_chunks)]
    return upload, [Chunk(update_id=bytes(16), index=i, data=data[at : at + n]) for i, (at, n) in enumerate(spans)]


def test_the_hashes_are_those_of_the_chunks_and_of_the_whole() -> None:
    upload, chunks = cut()
    assert upload.digest == hashlib.sha256(DATA).digest()
    assert upload.hashes == b"".join(hashlib.sha256(chunk.data).digest() for chunk in chunks)
    assert [len(chunk.data) for chunk in chunks] == [MIN_CHUNK_BYTES] * 3 + [100]


@given(st.binary(min_size=1, max_size=3 * MIN_CHUNK_BYTES), st.integers(MIN_CHUNK_BYTES, 2 * MIN_CHUNK_BYTES))
def test_what_is_cut_is_joined_again(data: bytes, chunk_bytes: int) -> None:
    upload, chunks = cut(data, chunk_bytes)
    for chunk in chunks:
        check_chunk(upload, chunk)
    assert whole(upload, [chunk.data for chunk in chunks]) == data


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(update_id=bytes(16), index=0, data=DATA[:100]),
        Chunk(update_id=bytes(16), index=0, data=DATA[1 : 1 + MIN_CHUNK_BYTES]),
        Chunk(update_id=bytes(16), index=3, data=DATA[:100]),
        Chunk(update_id=bytes(16), index=4, data=DATA[:100]),
        Chunk(update_id=bytes(16), index=MAX_CHUNKS - 1, data=b"x"),
    ],
)
def test_a_chunk_that_is_not_its_piece_is_refused(chunk: Chunk) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        check_chunk(cut()[0], chunk)
    assert refused.value.reason == "bad-chunk"


def test_chunks_in_another_order_or_number_are_no_whole() -> None:
    upload, chunks = cut()
    pieces = [chunk.data for chunk in chunks]
    for wrong in (pieces[:-1], [pieces[1], pieces[0], *pieces[2:]], [*pieces, b"x"], []):
        with pytest.raises(RemoteProtocolError) as refused:
            whole(upload, wrong)
        assert refused.value.reason == "bad-chunk"


@pytest.mark.parametrize("n_hashes", [1, 3, 5])
def test_a_manifest_has_as_many_hashes_as_chunks(n_hashes: int) -> None:
    with pytest.raises(FieldError, match="hashes: expected 4"):
        Upload(
            task="t",
            round=1,
            version=0,
            bundle_id="b" * 64,
            update_id=bytes(16),
            n_bytes=len(DATA),
            digest=bytes(32),
            chunk_bytes=MIN_CHUNK_BYTES,
            hashes=bytes(32 * n_hashes),
        )


@given(st.integers(1, MAX_CHUNKS), st.data())
def test_what_is_there_survives_the_wire(n_chunks: int, data: st.DataObject) -> None:
    have = data.draw(st.frozensets(st.integers(0, n_chunks - 1)))
    assert unpack_have(pack_have(have, n_chunks), n_chunks) == have
    assert unpack_have(b"", n_chunks) == frozenset()
    assert unpack_have(b"\xff" * 128, n_chunks) == frozenset(range(n_chunks))


@given(st.integers(1, uploads.MAX_UPLOAD_BYTES), st.integers(1, 2**24), st.none() | st.integers(1, 2**24))
def test_chunks_are_never_too_many_nor_too_small(n_bytes: int, wanted: int, packet: int | None) -> None:
    size = chunk_size(n_bytes, wanted=wanted, max_packet_bytes=packet, head=4096)
    assert MIN_CHUNK_BYTES <= size <= uploads.MAX_CHUNK_BYTES
    assert -(-n_bytes // size) <= MAX_CHUNKS
