"""A small fleet with an authority: real brokers, certificates of every kind, hostile clients. For tests."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aggregator.adapters.authority import make_authority
from aggregator.adapters.broker import BrokerConfig, BrokerProcess
from aggregator.adapters.mosquitto_files import BrokerTls
from host.certificates import make_key, make_request
from host.link import BrokerAddress, LinkDown, LinkUp, Received
from host.mqtt_link import MqttLink
from host.tls import TlsFiles, client_context
from protocol.signing import SigningKey
from tests.host.mosquitto import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aggregator.adapters.authority import Authority
    from aggregator.core.enrolment import CertificateRecord

FLEET = "f"
WAIT_S = 10.0
QUIET_S = 0.7
DAY_S = 86_400.0
VERIFY_KEY = SigningKey(bytes(32)).public.raw
MAX_PACKET_BYTES = 64 * 1024


class SecureFleet:
    """An authority, its fleet broker (and claim broker, if asked for), and whoever connects."""

    def __init__(self, folder: Path, *, role: str = "fleet", workers: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.authority = make_authority(folder / "ca", fleet=FLEET, host="127.0.0.1", now=datetime.now(UTC))
        self.service_port = free_port()
        ca, port = folder / "ca", self.service_port
        tls = BrokerTls(fleet=FLEET, role=role, authority=ca, service_port=port, workers=workers)  # type: ignore[arg-type]
        config = BrokerConfig(
            kind="mosquitto", folder=folder / role, tls=tls, max_packet_bytes=MAX_PACKET_BYTES, max_queued_bytes=1 << 20
        )
        self.broker = BrokerProcess(config)
        self.broker.start()
        self.links: list[MqttLink] = []
        self.issued: dict[str, CertificateRecord] = {}

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.broker.stop()

    def files(
        self, name: str, *, authority: Authority | None = None, life_s: float = DAY_S, ago_s: float = 0
    ) -> TlsFiles:
        """Return the files of a device with a certificate by ``authority``."""
        signer, key_file = authority or self.authority, self.folder / f"{name}-{free_port()}.key"
        request = make_request(name, make_key(key_file))
        made = signer.issue(name, request, verify_key=VERIFY_KEY, life_s=life_s, unix_s=time.time() - ago_s)
        self.issued[name] = made
        path = key_file.with_suffix(".pem")
        pem = b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in signer.chain(made.der))
        path.write_bytes(pem)
        return TlsFiles(root=self.folder / "ca" / "root.pem", certificate=path, key=key_file)

    def link(
        self,
        name: str,
        filters: list[str],
        *,
        files: TlsFiles | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        port: int | None = None,
    ) -> MqttLink:
        """Return a link that may or may not come up."""
        if tls is None:
            own = files or self.files(name)
            tls = lambda: client_context(own)  # noqa: E731 - a factory
        address = BrokerAddress(host="127.0.0.1", port=port or self.broker.port, is_tls=True)
        made = MqttLink(address, client_id=name, filters=filters, tls=tls, is_lasting=False)
        self.links.append(made)
        return made

    def device(self, name: str) -> MqttLink:
        """Return an honest device's link, up."""
        link = self.link(name, [f"ef/1/{FLEET}/dev/{name}/down/+", f"ef/1/{FLEET}/task/+/announce"])
        assert isinstance(event := link.receive(WAIT_S), LinkUp), event
        return link

    def service(self, filters: list[str] | None = None, *, port: int | None = None) -> MqttLink:
        """Return the service's link, up; one at a time, as the session has one name."""
        own = self.authority.files("service")
        link = self.link("edgefold", filters or [f"ef/1/{FLEET}/dev/+/up/+"], files=own, port=port)
        assert isinstance(event := link.receive(WAIT_S), LinkUp), event
        return link

    def now(self) -> datetime:
        """Return the time at which certificates are made."""
        return datetime.now(UTC)

    def context(self, name: str) -> ssl.SSLContext:
        """Return a device's TLS context, to misuse."""
        return client_context(self.files(name))


def hears(link: MqttLink, wait_s: float = QUIET_S) -> list[str]:
    """Return the topics that arrive until it is quiet."""
    topics = []
    while (event := link.receive(wait_s)) is not None:
        if isinstance(event, Received):
            topics.append(event.topic)
            link.acknowledge(event)
    return topics


def next_down(link: MqttLink, wait_s: float = WAIT_S) -> LinkDown:
    """Return the next loss of the connection."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        event = link.receive(0.2)
        if isinstance(event, LinkDown):
            return event
    raise AssertionError("the connection was not ended")


def assert_works(device: MqttLink, name: str, service: MqttLink) -> None:
    """The device and the service still reach each other, both ways."""
    hears(service, 0.05)
    assert device.publish(f"ef/1/{FLEET}/dev/{name}/up/join", b"still here")
    event = service.receive(WAIT_S)
    assert isinstance(event, Received)
    assert event.topic == f"ef/1/{FLEET}/dev/{name}/up/join"
    service.acknowledge(event)
    assert service.publish(f"ef/1/{FLEET}/dev/{name}/down/work", b"work")
    event = device.receive(WAIT_S)
    assert isinstance(event, Received)
    device.acknowledge(event)


def server_pretender(fleet: SecureFleet, name: str) -> tuple[Path, Path]:
    """Return certificate and key files with which a device plays the broker."""
    files = fleet.files(name)
    assert files.certificate is not None
    assert files.key is not None
    return files.certificate, files.key
