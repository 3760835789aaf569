"""Takes messages that come in chunks, and gives them back whole.

Laws: a chunk is durable before it is said to be there; the whole is decided on as any message (``core.intake``), so
that what it changes is one transaction and happens once, and only then its chunks go: killed in between, the device
asks again and hears that it was taken. A device has one upload; what all of them may take is bounded
(``[uploads] max_mb``), and what nothing came for is forgotten. Memory: one whole, when its last chunk came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aggregator.core.intake import Refused, TakenBefore
from aggregator.core.records import Traffic
from aggregator.core.upload_rules import check_upload, was_taken
from host.logs import event
from protocol import topics
from protocol.errors import MalformedMessageError, RemoteProtocolError, StorageError
from protocol.messages import pack_body, unpack_body
from protocol.uploads import Chunk, Upload, Uploaded, check_chunk, pack_have, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aggregator.conversation import Conversation, Outgoing
    from aggregator.core.intake import Decision, IntakeContext, Uploading
    from aggregator.ports import Clock
    from aggregator.upload_settings import UploadSettings
    from protocol.reasons import Reason

__all__ = ["UploadDesk", "UploadStore", "Whole"]

_LOOK_EVERY_S: Final = 60.0  # for uploads that nothing comes of any more


class UploadStore(Protocol):
    """Where chunks are kept; every method raises ``StorageError`` if nothing of it could be read or kept."""

    def manifest(self, device: str) -> bytes | None: ...  # noqa: D102
    def have(self, device: str) -> frozenset[int]: ...  # noqa: D102
    def chunks(self, device: str) -> Iterator[bytes]: ...  # noqa: D102

    def begin(self, device: str, manifest: bytes, *, n_bytes: int, max_bytes: int, unix_s: float) -> bool:
        """Open an upload in place of another of this device; False, and nothing changed, if there is no room."""

    def put(  # noqa: PLR0913 - one chunk and what is counted
        self, device: str, chunk: int, data: bytes, *, task: str, round_: int, traffic: Traffic, unix_s: float
    ) -> None:
        """Keep a chunk of the open upload."""

    def drop(self, device: str) -> None:
        """Forget the device's upload."""

    def expire(self, *, before_unix_s: float) -> Sequence[str]:
        """Forget the uploads of which nothing came since then; return whose they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All chunks are there: what the device would have sent at once, and under which manifest."""

    device: str
    upload: Upload
    topic: str
    payload: bytes


class UploadDesk:
    """All devices' uploads."""

    def __init__(
        self, settings: UploadSettings, *, store: UploadStore, conversation: Conversation, clock: Clock
    ) -> None:
        """Keep uploads in ``store``."""
        self._settings, self._store, self._conversation, self._clock = settings, store, conversation, clock
        self._looked_s = float("-inf")

    def take(self, uploading: Uploading, context: IntakeContext, *, n_bytes: int) -> Outgoing | Whole | Decision:
        """Take a manifest or a chunk of ``n_bytes`` with its envelope.

        Returns:
            What to say; or the whole, to be decided on; or how the whole is decided before it is here.

        Raises:
            StorageError: it could not be kept.
        """
        device, body = uploading.device, uploading.body
        if isinstance(body, Upload):
            return self._open(device, body, context)
        return self._put(device, body, context, n_bytes)

    def done(self, device: str) -> None:
        """The whole was decided on: its chunks are not needed any more."""
        self._store.drop(device)

    def tick(self, now_s: float) -> None:
        """Forget old uploads, if it is time to look."""
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for device in self._store.expire(before_unix_s=self._clock.unix_s() - self._settings.expires_s):
            event("upload-expired", device=device)

    def _open(self, device: str, upload: Upload, context: IntakeContext) -> Outgoing | Whole | Decision:
        if was_taken(device, upload, context):
            self._store.drop(device)
            return TakenBefore(device=device, update=upload)
        known = self._known(device)
        try:
            check_upload(device, upload, context)
        except RemoteProtocolError as error:
            return self._refused(device, upload, error)
        if known != upload:
            room, manifest = self._settings.max_mb * 2**20, pack_body(upload)
            now = self._clock.unix_s()
            if not self._store.begin(device, manifest, n_bytes=upload.n_bytes, max_bytes=room, unix_s=now):
                event("upload-put-off", device=device, bytes=upload.n_bytes)
                return self._say(device, Uploaded(update_id=upload.update_id, status="busy"))
            event("upload-opened", device=device, task=upload.task, round=upload.round, bytes=upload.n_bytes)
        return self._progress(device, upload)

    def _put(self, device: str, chunk: Chunk, context: IntakeContext, n_bytes: int) -> Outgoing | Whole | Decision:
        upload = self._known(device)
        if upload is None or upload.update_id != chunk.update_id:
            return self._say(device, Uploaded(update_id=chunk.update_id, status="unknown"))
        try:
            check_upload(device, upload, context)
            check_chunk(upload, chunk)
        except RemoteProtocolError as error:
            if error.reason == "bad-chunk":
                return Refused(reason="bad-chunk", detail=str(error), device=device)
            return self._refused(device, upload, error)
        # Of a chunk's first coming only the envelope is counted: its data is counted with the whole.
        is_first = chunk.index not in self._store.have(device)
        traffic = Traffic(up_bytes=n_bytes - (len(chunk.data) if is_first else 0))
        self._store.put(
            device,
            chunk.index,
            chunk.data,
            task=upload.task,
            round_=upload.round,
            traffic=traffic,
            unix_s=self._clock.unix_s(),
        )
        return self._progress(device, upload)

    def _progress(self, device: str, upload: Upload) -> Outgoing | Whole | Decision:
        have = self._store.have(device)
        if len(have) < upload.n_chunks:
            bits = pack_have(have, upload.n_chunks)
            return self._say(device, Uploaded(update_id=upload.update_id, status="open", have=bits))
        try:
            payload = whole(upload, self._store.chunks(device))
        except RemoteProtocolError as error:  # a manifest that does not fit itself
            return self._refused(device, upload, error)
        kind = "sum-step" if upload.is_step else "update"
        topic = topics.up(self._conversation.fleet, device, kind)
        return Whole(device=device, upload=upload, topic=topic, payload=payload)

    def _refused(self, device: str, upload: Upload, error: RemoteProtocolError) -> Refused:
        self._store.drop(device)
        reason: Reason = error.reason  # type: ignore[assignment]  # all of them are
        return Refused(reason=reason, detail=str(error), device=device, update=upload)

    def _known(self, device: str) -> Upload | None:
        manifest = self._store.manifest(device)
        if manifest is None:
            return None
        try:
            body = unpack_body("upload", manifest)
        except MalformedMessageError as error:
            raise StorageError(f"the manifest of an upload of {device} is damaged: {error}") from error
        return body if isinstance(body, Upload) else None

    def _say(self, device: str, uploaded: Uploaded) -> Outgoing:
        return self._conversation.uploaded(device, uploaded)
