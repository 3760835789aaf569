"""Sends what waits in the outbox: at once, or in chunks where it is large, and goes on after every break.

Laws: the bytes are the outbox's, cut, and never made anew, so an upload that a restart interrupts goes on where the
service has it; nothing more is kept than the outbox, since the manifest follows from its bytes. Memory: a chunk, and
once the whole, to read of it what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.core.uploading import Uploading
from host.logs import event as log
from protocol.messages import Update, kind_of, unpack_body, unpack_envelope
from protocol.sum_round import SumStep
from protocol.uploads import Chunk, Upload, Uploaded, chunk_size, chunk_span, hashes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.config import BrokerSettings
    from protocol.messages import Body

__all__ = ["Outgoing", "Uploads"]

# Of an envelope around a chunk: 200 bytes, 3.6 kB with a second signature, and a topic.
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A signed message of the outbox; ``read`` gives so many bytes of it from a place on."""

    kind: Literal["update", "sum-step"]
    update_id: bytes
    n_bytes: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, kind: Literal["update", "sum-step"], update_id: bytes, envelope: bytes) -> Outgoing:
        """Return a message that is in memory."""
        return cls(kind=kind, update_id=update_id, n_bytes=len(envelope), read=lambda at, n: envelope[at : at + n])


class Uploads:
    """The one message that this device is sending."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        say: Callable[[Body], bool],
        publish: Callable[[str, bytes], bool],
    ) -> None:
        """Send by ``publish``; ``say`` signs and sends; both return whether it went out."""
        self._settings, self._say, self._publish = settings, say, publish
        self._now: Uploading | None = None
        self.max_packet_bytes: int | None = None  # what the broker takes, where it says so

    def send(self, message: Outgoing) -> None:
        """Send ``message``, or ask how much of it is there; call it again until it is receipted.

        Raises:
            StorageError: the outbox cannot be read.
        """
        if not self._is_large(message.n_bytes):
            self._publish(message.kind, message.read(0, message.n_bytes))
            return
        if self._now is None or self._now.upload.update_id != message.update_id or not self._fits(self._now.upload):
            self._now = Uploading(upload=self._manifest(message))
        if self._now.wants_whole and self._takes(message.n_bytes):
            log("upload-as-a-whole", bytes=message.n_bytes)
            went_out = self._publish(message.kind, message.read(0, message.n_bytes))
        else:
            went_out = self._say(self._now.upload)
        if went_out:  # what never left says nothing about whether somebody answers
            self._now = self._now.asked()

    def heard(self, said: Uploaded, message: Outgoing) -> Literal["went on", "ask", "wait", "none"]:
        """Take the service's answer and send what is missing.

        Returns:
            "went on" where chunks are on their way; "ask" where the manifest is wanted; "wait" where it has no room;
            "none" if the answer is of another upload.

        Raises:
            StorageError: the outbox cannot be read.
        """
        if self._now is None or said.update_id != self._now.upload.update_id != b"":
            return "none"
        self._now = self._now.answered(said)
        if said.status != "open":
            return "ask" if said.status == "unknown" else "wait"
        for index in self._now.due():
            at, n_bytes = chunk_span(message.n_bytes, self._now.upload.chunk_bytes, index)
            chunk = Chunk(update_id=message.update_id, index=index, data=message.read(at, n_bytes))
            if not self._say(chunk):
                break  # the link is down or busy: the next look asks again
            self._now = self._now.sent(index)
        return "went on"

    def _is_large(self, n_bytes: int) -> bool:
        return n_bytes > self._settings.chunk_above_kb * 1024 or not self._takes(n_bytes)

    def _takes(self, n_bytes: int) -> bool:
        return self.max_packet_bytes is None or n_bytes + _HEAD_BYTES <= self.max_packet_bytes

    def _fits(self, upload: Upload) -> bool:
        return self._takes(upload.chunk_bytes)

    def _manifest(self, message: Outgoing) -> Upload:
        data = message.read(0, message.n_bytes)
        body = unpack_body(message.kind, unpack_envelope(data).body)
        if not isinstance(body, (Update, SumStep)):  # pragma: no cover - these are the two kinds
            raise TypeError(kind_of(body))
        size = chunk_size(
            message.n_bytes,
            wanted=self._settings.chunk_kb * 1024,
            max_packet_bytes=self.max_packet_bytes,
            head=_HEAD_BYTES,
        )
        digest, hashes = hashes_of(message.n_bytes, size, lambda at, n: data[at : at + n])
        upload = Upload(
            task=body.task,
            round=body.round,
            version=body.version,
            bundle_id=body.bundle_id,
            update_id=body.update_id,
            is_step=isinstance(body, SumStep) or None,
            n_bytes=message.n_bytes,
            digest=digest,
            chunk_bytes=size,
            hashes=hashes,
        )
        log("upload-began", bytes=upload.n_bytes, chunks=upload.n_chunks)
        return upload
