"""An enrolled device with a whole (if idle) bundle in a fleet with a real broker, to make ill in one way at a time."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from edge_agent.doctor.examination import examine
from host.keys import save_key
from host.link import Received
from protocol import topics
from protocol.messages import Announce
from protocol.signing import SERVICE, SigningKey, sign
from tests.aggregator.secure_fleet import DAY_S, FLEET, WAIT_S, SecureFleet
from tests.attacks.hostile_bundles import make_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.doctor.finding import Finding
    from host.mqtt_link import MqttLink

NAME = "pi"
SETTINGS = f"""
[device]
fleet = "{FLEET}"
id = "{NAME}"
key = "device.key"
bundles = ["bundle"]
[data]
train = "train.jsonl"
"""


class Patient:
    """A device and its fleet."""

    def __init__(self, folder: Path, *, bundle: Path | None = None, life_s: float = DAY_S, ago_s: float = 0) -> None:
        self.fleet, self.here = SecureFleet(folder), folder / "device"
        self._links: tuple[MqttLink, MqttLink] | None = None  # the service's, and that of a device that listens
        self.service_key = SigningKey.generate()
        (self.here / "identity").mkdir(parents=True)
        files = self.fleet.files(NAME, life_s=life_s, ago_s=ago_s)
        for path, name in ((files.root, "root.pem"), (files.certificate, "certificate.pem"), (files.key, "tls.key")):
            assert path is not None
            shutil.copy2(path, self.here / "identity" / name)
        self.enrol("127.0.0.1", self.fleet.broker.port)
        save_key(self.here / "device.key", SigningKey.generate())
        if bundle is None:
            self.bundle_id = make_bundle(self.here / "bundle")
        else:
            shutil.copytree(bundle, self.here / "bundle")
        (self.here / "train.jsonl").write_text('{"text": "good", "label": 1}\n' * 4, "utf-8")
        self.config = self.here / "agent.toml"
        self.config.write_text(SETTINGS, "utf-8")

    def close(self) -> None:
        self.fleet.close()

    def enrol(self, host: str, port: int) -> None:
        values = {
            "fleet": FLEET,
            "device": NAME,
            "broker_url": f"mqtts://{host}:{port}",
            "service_key": self.service_key.public.raw.hex(),
        }
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        (self.here / "identity" / "enrolment.toml").write_text(text, "utf-8")

    def announce(self, bundle_id: str, *, key: SigningKey | None = None) -> None:
        if self._links is None:  # for all that is said: a second link of the service would take the first one's session
            self._links = self.fleet.service(), self.fleet.device("other")
        service, other = self._links
        said = Announce(task="t", state="open", round=3, version=2, bundle_id=bundle_id)
        envelope = sign(said, fleet=FLEET, sender=SERVICE, key=key or self.service_key)
        assert service.publish(topics.announce(FLEET, "t"), envelope, retain=True)
        until = time.monotonic() + WAIT_S
        while not (isinstance(event := other.receive(WAIT_S), Received) and event.payload == envelope):
            assert time.monotonic() < until, event

    def findings(self) -> dict[str, Finding]:
        return {one.name: one for one in examine(self.config)}

    def states(self) -> dict[str, Any]:
        return {name: one.state for name, one in self.findings().items()}
