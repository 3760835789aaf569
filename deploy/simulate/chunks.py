"""Virtual devices' large updates in chunks: what each has cut, and what of it the service does not have yet.

Laws: a device has one upload; of what is missing a few chunks are on their way at a time, and a manifest that is said
again counts them as lost. Memory: the update of each device that is sending one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocol.uploads import Chunk, Upload, chunk_span, hashes_of, unpack_have

if TYPE_CHECKING:
    from protocol.messages import Update
    from protocol.uploads import Uploaded

__all__ = ["Cutter"]

_WINDOW: Final = 4


@dataclass(slots=True, kw_only=True)
class _Cut:
    upload: Upload
    data: bytes
    on_the_way: set[int] = field(default_factory=set)


class Cutter:
    """All devices' uploads."""

    def __init__(self, chunk_bytes: int) -> None:
        """Cut what is longer than ``chunk_bytes``."""
        self._chunk_bytes = chunk_bytes
        self._cuts: dict[str, _Cut] = {}

    def cut(self, name: str, update: Update, envelope: bytes) -> Upload | None:
        """Return the manifest of a device's update, None if it is small."""
        if len(envelope) <= self._chunk_bytes:
            return None
        digest, hashes = hashes_of(len(envelope), self._chunk_bytes, lambda at, n: envelope[at : at + n])
        upload = Upload(
            task=update.task,
            round=update.round,
            version=update.version,
            bundle_id=update.bundle_id,
            update_id=update.update_id,
            n_bytes=len(envelope),
            digest=digest,
            chunk_bytes=self._chunk_bytes,
            hashes=hashes,
        )
        self._cuts[name] = _Cut(upload=upload, data=envelope)
        return upload

    def missing(self, name: str, said: Uploaded) -> list[Chunk]:
        """Return the chunks to send now that the service said what it has."""
        cut = self._cuts.get(name)
        if cut is None or cut.upload.update_id != said.update_id or said.status != "open":
            return []  # the device says its manifest again by itself
        upload = cut.upload
        have = unpack_have(said.have, upload.n_chunks)
        cut.on_the_way -= have
        due = [one for one in range(upload.n_chunks) if one not in have and one not in cut.on_the_way]
        due = due[: _WINDOW - len(cut.on_the_way)]
        cut.on_the_way |= set(due)
        spans = {one: chunk_span(upload.n_bytes, upload.chunk_bytes, one) for one in due}
        return [
            Chunk(update_id=upload.update_id, index=one, data=cut.data[at : at + n]) for one, (at, n) in spans.items()
        ]
