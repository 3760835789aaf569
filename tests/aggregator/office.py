"""Both sides of enrolment over a fake wire; database and X.509 are real. For tests."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aggregator.adapters.authority import Authority, make_authority
from aggregator.adapters.registry import EnrolledDevices
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.adapters.sql_store import SqlStore
from aggregator.core.enrolment import TokenRecord
from aggregator.issuance import ClaimDesk, Issuance, Terms
from aggregator.trust_setup import make_welcome
from host.certificates import make_key, make_request
from host.link import Received
from host.memory_link import MemoryBroker
from protocol import topics
from protocol.enrolment import Claim, ClaimAnswer, fingerprint, open_answer, seal_claim
from protocol.sealing import TaskKey
from protocol.signing import SigningKey
from tests.aggregator.workbench import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

FLEET, HOUR_S, LIFE_S = "f", 3600.0, 7 * 86_400.0
SECRET = bytes(range(16))


class Applicant:
    """A device that claims."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.key, self.answer_key = name, SigningKey.generate(), TaskKey.generate()
        self.tls_key = make_key(folder / f"{name}.key")

    def claim(self, unix_s: float, **changes: Any) -> Claim:
        made = Claim(
            device=self.name,
            secret=SECRET,
            verify_key=self.key.public.raw,
            answer_key=self.answer_key.public_raw,
            request=make_request(self.name, self.tls_key),
            unix_s=unix_s,
        )
        return dataclasses.replace(made, **changes)


class Office:
    """The service's side: an authority, a database and a desk."""

    def __init__(self, folder: Path, database: Path, **terms: Any) -> None:
        shutil.copyfile(database, folder / "aggregator.db")
        self.folder, self.clock = folder, ManualClock()
        now = datetime.fromtimestamp(self.clock.unix_s(), UTC)
        make_authority(folder / "ca", fleet=FLEET, host="127.0.0.1", now=now)
        self.authority = Authority(folder / "ca")
        self.devices, self.store = SqlDevices(folder / "aggregator.db"), SqlStore(folder / "aggregator.db")
        self.key = SigningKey(bytes(32))
        settings = {"fleet": FLEET, "broker_url": "mqtts://127.0.0.1:1", "approval": "token", "life_s": LIFE_S}
        self.registry = EnrolledDevices(self.devices, None)
        self.issuance = Issuance(
            Terms(max_skew_s=HOUR_S, **{**settings, **terms}),
            devices=self.devices,
            issuer=self.authority,
            clock=self.clock,
            key_of=self.registry.key_of,
        )
        self.broker = MemoryBroker()
        self.desk = ClaimDesk(
            self.issuance,
            link=self.broker.link([topics.all_claims(FLEET)]),
            store=self.store,
            welcome=make_welcome(FLEET, self.authority, self.key),
            claim_key=self.authority.claim_key,
            key=self.key,
        )
        self.give_token(SECRET)

    def give_token(self, secret: bytes) -> None:
        expires = self.clock.unix_s() + HOUR_S
        self.devices.add_tokens([TokenRecord(digest=fingerprint(secret), expires_unix_s=expires)])

    def send(self, sealed: bytes, claim_id: str = "c1") -> bytes | None:
        """Send a sealed claim; return the sealed answer, if there is one."""
        link = self.broker.link([topics.claim_down(FLEET, claim_id)])
        link.publish(topics.claim_up(FLEET, claim_id), sealed)
        self.desk.tick()
        answers = []
        while (event := link.receive(0)) is not None:
            answers += [event.payload] if isinstance(event, Received) else []
        link.close()
        return answers[-1] if answers else None

    def ask(self, applicant: Applicant, **changes: Any) -> ClaimAnswer:
        claim = applicant.claim(**{"unix_s": self.clock.unix_s(), **changes})
        public = self.authority.claim_key.public_raw
        sealed = seal_claim(claim, fleet=FLEET, claim_id="c1", claim_key=public, key=applicant.key)
        answer = self.send(sealed)
        assert answer is not None
        return open_answer(
            answer,
            fleet=FLEET,
            claim_id="c1",
            claim=sealed,
            answer_key=applicant.answer_key,
            service_key=self.key.public,
        )

    def refusals(self) -> dict[str, int]:
        return dict(self.store.refusals(""))

    def close(self) -> None:
        self.devices.close()
        self.store.close()
