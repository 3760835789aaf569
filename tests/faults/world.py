"""What outlives a device without power: a service that folds each round once, and a journal of all that reached it.

The journal is what the device said and what the service decided, a line each, appended before anything else happens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from protocol import topics
from protocol.messages import (
    Announce,
    Body,
    Decline,
    Join,
    Receipt,
    Update,
    Work,
    pack_body,
    unpack_body,
    unpack_envelope,
)
from protocol.plan import Codec, Optimizer, Plan
from protocol.sealing import TaskKey
from protocol.signing import SERVICE, SigningKey, open_envelope, sign
from protocol.uploads import Chunk, Upload, Uploaded, check_chunk, pack_have, whole

if TYPE_CHECKING:
    from pathlib import Path

    from host.link import Link
    from protocol.signing import VerifyKey

FLEET, DEVICE, TASK = "f", "pi", "t"
BUNDLE_ROUNDS: Final = 3  # so many rounds on a bundle, then the task is on another
SERVICE_KEY: Final = SigningKey(bytes(range(32)))
TASK_KEY: Final = TaskKey.generate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the journal."""

    what: str  # "update" or "folded"
    round: int
    update_id: str
    digest: str = ""
    encapsulated: str = ""  # the part of a sealed message that must never come twice
    key: str = ""


def read_journal(path: Path) -> list[Line]:
    """Return all lines."""
    if not path.exists():
        return []
    return [Line(**json.loads(line)) for line in path.read_text().splitlines()]


class Shelf:
    """The chunks that reached the service, in files of its own."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``."""
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def upload(self) -> Upload | None:
        """What is being uploaded."""
        path = self._folder / "manifest"
        body = unpack_body("upload", path.read_bytes()) if path.exists() else None
        return body if isinstance(body, Upload) else None

    def begin(self, upload: Upload) -> None:
        """Begin anew, unless it is the same."""
        if self.upload != upload:
            for path in self._folder.iterdir():
                path.unlink()
            (self._folder / "manifest").write_bytes(pack_body(upload))

    def put(self, chunk: Chunk) -> None:
        """Keep a chunk of it."""
        if self.upload is not None and self.upload.update_id == chunk.update_id:
            check_chunk(self.upload, chunk)
            (self._folder / str(chunk.index)).write_bytes(chunk.data)

    def chunks(self) -> dict[int, bytes]:
        """Return what is there."""
        return {int(path.name): path.read_bytes() for path in self._folder.iterdir() if path.name.isdecimal()}


class World:
    """The service's end of the wire."""

    def __init__(self, journal: Path, link: Link, bundles: list[str], device_key: VerifyKey) -> None:
        """Go on from the journal."""
        self._path, self._link, self._bundles, self._device_key = journal, link, bundles, device_key
        self._shelf, self.n_wholes = Shelf(journal.with_name("chunks")), 0
        self._folded = {line.round: line.update_id for line in read_journal(journal) if line.what == "folded"}

    @property
    def round(self) -> int:
        """The open round."""
        return len(self._folded) + 1

    def announce(self) -> None:
        """Say which round is open."""
        number = self.round
        bundle = self._bundles[(number // BUNDLE_ROUNDS) % len(self._bundles)]
        self._say(Announce(task=TASK, state="open", round=number, version=number - 1, bundle_id=bundle))

    def take(self, payload: bytes) -> None:
        """Handle what the device sent."""
        body = open_envelope(unpack_envelope(payload), fleet=FLEET, key=self._device_key)
        match body:
            case Join() if body.round == self.round:
                self._say(self._work(body))
            case Join():
                self._say(Decline(task=TASK, round=body.round, reason="late"))
            case Update():
                self._on_update(body, payload)
            case Upload():
                self._shelf.begin(body)
                self._on_progress()
            case Chunk():
                self._shelf.put(body)
                self._on_progress()

    def _on_progress(self) -> None:
        upload = self._shelf.upload
        if upload is None:
            return
        chunks = self._shelf.chunks()
        if len(chunks) == upload.n_chunks:
            self.n_wholes += 1
            self.take(whole(upload, [chunks[index] for index in range(upload.n_chunks)]))
        else:
            have = pack_have(chunks, upload.n_chunks)
            self._say(Uploaded(update_id=upload.update_id, status="open", have=have))

    def _on_update(self, update: Update, payload: bytes) -> None:
        update_id = update.update_id.hex()
        facts = {"round": update.round, "update_id": update_id}
        digest = hashlib.sha256(payload).hexdigest()
        key = self._device_key.raw.hex()
        self._write(what="update", digest=digest, encapsulated=update.sealed[:64].hex(), key=key, **facts)
        if update.round == self.round:
            self._write(what="folded", digest=digest, **facts)
            self._folded[update.round] = update_id
        is_ours = self._folded.get(update.round) == update_id
        self._say(
            Receipt(
                task=TASK,
                round=update.round,
                update_id=update.update_id,
                status="accepted" if is_ours else "refused",
                reason=None if is_ours else "late",
            )
        )
        self.announce()

    def _work(self, join: Join) -> Work:
        return Work(
            task=TASK,
            round=join.round,
            version=join.round - 1,
            bundle_id=join.bundle_id,
            plan=Plan(optimizer=Optimizer(), codec=Codec()),
            adapter=b"adapter %d" % join.round,
            task_key=TASK_KEY.public_raw,
            seconds_left=60.0,
        )

    def _say(self, body: Body) -> None:
        is_announce = isinstance(body, Announce)
        topic = topics.announce(FLEET, TASK) if is_announce else topics.down(FLEET, DEVICE, "x")
        self._link.publish(topic, sign(body, fleet=FLEET, sender=SERVICE, key=SERVICE_KEY), retain=is_announce)

    def _write(self, **facts: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(facts) + "\n")
