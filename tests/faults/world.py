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
    Codec,
    Decline,
    Join,
    Optimizer,
    Plan,
    Receipt,
    Update,
    Work,
    unpack_envelope,
)
from protocol.sealing import TaskKey
from protocol.signing import SERVICE, SigningKey, open_envelope, sign

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


class World:
    """The service's end of the wire."""

    def __init__(self, journal: Path, link: Link, bundles: list[str], device_key: VerifyKey) -> None:
        """Go on from the journal."""
        self._path, self._link, self._bundles, self._device_key = journal, link, bundles, device_key
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
