"""A message that is too large for one MQTT packet, or for a link that flaps, in pieces that are resumed.

    device   upload    what is to come: its length, its SHA-256, and that of each chunk
    service  uploaded  which chunks are there: none of a new upload, some after a break
    device   chunk     one of them
    service  uploaded  after each chunk but the last; then the whole is taken, and answered, as if it had come at once

Laws: a whole is the exact bytes of one signed envelope, ``update`` or ``sum-step``, and nothing is believed for having
come in pieces; a manifest names each chunk's hash before the first comes, so a chunk is taken or refused by itself, in
any order, and again without harm; a device has one upload at a time, a new one takes the place of the old. No field of
an older message has changed: a service that does not know these kinds counts them as malformed and says nothing, and a
device that hears nothing sends the whole. Pure; what is kept is ``aggregator.uploads``'s affair.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from protocol.bounds import MAX_MESSAGE_BYTES, MAX_ROUND
from protocol.errors import RemoteProtocolError
from protocol.fields import Bytes, FieldError, Hex, Length, Name, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

__all__ = [
    "CHUNK_BYTES",
    "MAX_CHUNKS",
    "MAX_CHUNK_BYTES",
    "MAX_UPLOAD_BYTES",
    "MIN_CHUNK_BYTES",
    "Chunk",
    "Upload",
    "Uploaded",
    "check_chunk",
    "chunk_size",
    "chunk_span",
    "hashes_of",
    "pack_have",
    "unpack_have",
    "whole",
]

MAX_UPLOAD_BYTES: Final = MAX_MESSAGE_BYTES  # no more than can be taken at once
CHUNK_BYTES: Final = 256 * 2**10  # two seconds on a link of 1 Mbit/s: what a break costs at most
MIN_CHUNK_BYTES: Final = 4096
MAX_CHUNK_BYTES: Final = 4 * 2**20
MAX_CHUNKS: Final = 1024  # 32 kB of hashes; with CHUNK_BYTES four times the largest message
_HASH_BYTES: Final = 32  # SHA-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What a device is about to send in chunks: first what the whole says of itself, then how it is cut."""

    task: Name
    round: Annotated[int, Range(1, MAX_ROUND)]
    version: Annotated[int, Range(0, MAX_ROUND)]
    bundle_id: Hex
    update_id: Annotated[bytes, Bytes(16)]
    is_step: bool | None = None  # the whole is a ``sum-step`` and no ``update``
    n_bytes: Annotated[int, Range(1, MAX_UPLOAD_BYTES)]
    digest: Annotated[bytes, Bytes(_HASH_BYTES)]  # SHA-256 of the whole
    chunk_bytes: Annotated[int, Range(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)]  # of each but the last
    hashes: Annotated[bytes, Length(_HASH_BYTES, _HASH_BYTES * MAX_CHUNKS)]  # SHA-256 of each, one after the other

    def __post_init__(self) -> None:
        """Refuse more or fewer hashes than there are chunks."""
        if len(self.hashes) != _HASH_BYTES * self.n_chunks:
            raise FieldError(f"hashes: expected {self.n_chunks} of {_HASH_BYTES} bytes, got {len(self.hashes)} bytes")

    @property
    def n_chunks(self) -> int:
        """Into how many pieces the whole is cut."""
        return -(-self.n_bytes // self.chunk_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One piece of the upload that this device began last."""

    update_id: Annotated[bytes, Bytes(16)]
    index: Annotated[int, Range(0, MAX_CHUNKS - 1)]
    data: Annotated[bytes, Length(1, MAX_CHUNK_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Which chunks are durably there (``pack_have``); ``busy``: ask later; ``unknown``: begin with the manifest."""

    update_id: Annotated[bytes, Bytes(16)]
    status: Literal["open", "busy", "unknown"]
    have: Annotated[bytes, Length(0, MAX_CHUNKS // 8)] = b""


def chunk_size(n_bytes: int, *, wanted: int = CHUNK_BYTES, max_packet_bytes: int | None = None, head: int = 0) -> int:
    """Return how large the chunks of ``n_bytes`` are to be.

    Args:
        n_bytes: of the whole.
        wanted: what the device's owner asks for.
        max_packet_bytes: what the broker takes, if it says so.
        head: what an envelope adds to a chunk, in bytes.

    Returns:
        Between ``MIN_CHUNK_BYTES`` and ``MAX_CHUNK_BYTES``; never so few bytes that there are more than ``MAX_CHUNKS``.
    """
    size = wanted if max_packet_bytes is None else min(wanted, max_packet_bytes - head)
    return min(MAX_CHUNK_BYTES, max(size, MIN_CHUNK_BYTES, -(-n_bytes // MAX_CHUNKS)))


def chunk_span(n_bytes: int, chunk_bytes: int, index: int) -> tuple[int, int]:
    """Return where a chunk begins and how many bytes it has."""
    first = index * chunk_bytes
    return first, min(chunk_bytes, n_bytes - first)


def hashes_of(n_bytes: int, chunk_bytes: int, read: Callable[[int, int], bytes]) -> tuple[bytes, bytes]:
    """Return the digest of the whole and the chunks' hashes; ``read`` gives so many bytes from a place on."""
    digest, hashes = hashlib.sha256(), bytearray()
    for index in range(-(-n_bytes // chunk_bytes)):
        data = read(*chunk_span(n_bytes, chunk_bytes, index))
        digest.update(data)
        hashes += hashlib.sha256(data).digest()
    return digest.digest(), bytes(hashes)


def check_chunk(upload: Upload, chunk: Chunk) -> None:
    """Return if ``chunk`` is the piece of ``upload`` that it says it is.

    Raises:
        RemoteProtocolError: ``bad-chunk``: there is no such piece, or it has other bytes (the peer's fault).
    """
    if chunk.index >= upload.n_chunks:
        raise RemoteProtocolError(f"chunk {chunk.index} of {upload.n_chunks}", reason="bad-chunk")
    _, n_bytes = chunk_span(upload.n_bytes, upload.chunk_bytes, chunk.index)
    if len(chunk.data) != n_bytes:
        message = f"chunk {chunk.index} has {len(chunk.data)} bytes, expected {n_bytes}"
        raise RemoteProtocolError(message, reason="bad-chunk")
    at = chunk.index * _HASH_BYTES
    if hashlib.sha256(chunk.data).digest() != upload.hashes[at : at + _HASH_BYTES]:
        raise RemoteProtocolError(f"chunk {chunk.index} is not what the manifest names", reason="bad-chunk")


def whole(upload: Upload, chunks: Iterable[bytes]) -> bytes:
    """Return the whole of ``chunks``, all of them in their order.

    Raises:
        RemoteProtocolError: ``bad-chunk``: they are not the whole that the manifest names (the peer's fault).
    """
    data = b"".join(chunks)
    if len(data) != upload.n_bytes or hashlib.sha256(data).digest() != upload.digest:
        raise RemoteProtocolError("the chunks are not the whole that the manifest names", reason="bad-chunk")
    return data


def pack_have(indices: Collection[int], n_chunks: int) -> bytes:
    """Return which of ``n_chunks`` are there as bits, the first one lowest."""
    bits = sum(1 << index for index in set(indices))
    return bits.to_bytes(-(-n_chunks // 8), "little")


def unpack_have(have: bytes, n_chunks: int) -> frozenset[int]:
    """Return which of ``n_chunks`` are there; bits beyond them and missing bytes mean nothing."""
    bits = int.from_bytes(have, "little")
    return frozenset(index for index in range(n_chunks) if bits >> index & 1)
