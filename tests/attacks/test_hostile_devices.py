"""Hostile clients against the real brokers: each gets nothing, and the others go on working."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from aggregator.adapters.authority import make_authority
from aggregator.adapters.broker import is_available
from host.certificates import der_of, load_key, load_pem, make_key, save_pem
from host.link import LinkDown, LinkUp, Received
from host.tls import TlsFiles, client_context, pinned_later
from tests.aggregator.secure_fleet import (
    FLEET,
    MAX_PACKET_BYTES,
    WAIT_S,
    SecureFleet,
    assert_works,
    hears,
    next_down,
    server_pretender,
)
from tests.attacks.test_forged_certificates import Signer, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from host.mqtt_link import MqttLink

pytestmark = [
    pytest.mark.skipif(not is_available("mosquitto"), reason="Mosquitto is not installed"),
    pytest.mark.serial,
]
UP, DOWN = f"ef/1/{FLEET}/dev/victim/up/update", f"ef/1/{FLEET}/dev/victim/down/work"
# MQTT 5, section 3.1: a CONNECT with the client id "mallory", clean start, keep-alive 60 s.
CONNECT = bytes.fromhex("1014 0004 4d515454 05 02 003c 00 0007") + b"mallory"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SecureFleet]:
    made = SecureFleet(tmp_path)
    yield made
    made.close()


@pytest.fixture
def victim(fleet: SecureFleet) -> MqttLink:
    return fleet.device("victim")


@pytest.fixture
def service(fleet: SecureFleet) -> MqttLink:
    return fleet.service()


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[SecureFleet]:
    made = SecureFleet(tmp_path, role="claims")
    yield made
    made.close()


def raw(fleet: SecureFleet, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", fleet.broker.port), WAIT_S)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def is_let_in(fleet: SecureFleet, context: ssl.SSLContext) -> bool:
    """Return whether the broker answers a CONNECT; with TLS 1.3 a refusal comes after the handshake."""
    try:
        with raw(fleet, context) as link:
            link.sendall(CONNECT)
            return link.recv(4)[:1] == b"\x20"
    except OSError:
        return False


def test_a_device_cannot_publish_as_another(fleet: SecureFleet, victim: MqttLink, service: MqttLink) -> None:
    mallory = fleet.device("mallory")
    for topic in (UP, DOWN, f"ef/1/{FLEET}/task/t/announce", f"ef/1/{FLEET}/dev/mallory/down/work", "$SYS/x", "other"):
        mallory.publish(topic, b"forged")
    assert hears(service) == []
    assert hears(victim) == []
    assert_works(victim, "victim", service)


@pytest.mark.parametrize(
    "topic_filter", ["#", "+/#", f"ef/1/{FLEET}/dev/+/down/+", f"ef/1/{FLEET}/dev/victim/down/+", UP]
)
def test_a_device_hears_nothing_of_others_whatever_it_subscribes_to(
    fleet: SecureFleet, victim: MqttLink, service: MqttLink, topic_filter: str
) -> None:
    mallory = fleet.link("mallory", [topic_filter])
    mallory.receive(WAIT_S)
    assert_works(victim, "victim", service)
    assert hears(mallory) == []


def test_a_device_cannot_take_over_anothers_session(fleet: SecureFleet, victim: MqttLink, service: MqttLink) -> None:
    files = fleet.files("mallory")
    thief = fleet.link("victim", [f"ef/1/{FLEET}/dev/victim/down/+"], files=files)
    assert isinstance(thief.receive(WAIT_S), LinkUp)
    assert victim.receive(0.5) is None
    assert_works(victim, "victim", service)
    assert hears(thief) == []


def test_an_oversize_packet_ends_its_sender_alone(fleet: SecureFleet, victim: MqttLink, service: MqttLink) -> None:
    with raw(fleet, fleet.context("mallory")) as link:
        link.sendall(CONNECT)
        assert link.recv(256)[:1] == b"\x20"
        with contextlib.suppress(OSError):
            link.sendall(b"\x32\xff\xff\xff\x7f" + bytes(2 * MAX_PACKET_BYTES))
            link.settimeout(WAIT_S)
            while link.recv(256):
                pass
    assert_works(victim, "victim", service)


def test_a_flood_does_not_silence_the_others(fleet: SecureFleet, victim: MqttLink, service: MqttLink) -> None:
    mallory, stop = fleet.device("mallory"), threading.Event()

    def flood() -> None:
        while not stop.is_set():
            if not mallory.publish(f"ef/1/{FLEET}/dev/mallory/up/update", bytes(16_000)):
                time.sleep(0.001)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        assert victim.publish(f"ef/1/{FLEET}/dev/victim/up/join", b"x")
        until = time.monotonic() + WAIT_S
        heard = False
        while not heard and time.monotonic() < until:
            event = service.receive(0.5)
            if isinstance(event, Received):
                service.acknowledge(event)
                heard = "/victim/" in event.topic
        assert heard
    finally:
        stop.set()
        flooder.join()


def test_slow_drips_and_malformed_packets_leave_the_broker_alone(
    fleet: SecureFleet, victim: MqttLink, service: MqttLink
) -> None:
    garbage = (
        b"\x00" * 64,
        b"\x10\xff\xff\xff\xff\xff",
        CONNECT[:9],
        b"\x30\x05\x00\x09abc",
        b"\xf0\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    )
    context = fleet.context("mallory")
    with contextlib.ExitStack() as held:
        for data in garbage:
            link = held.enter_context(raw(fleet, context))
            with contextlib.suppress(OSError):
                link.sendall(data)
        for _ in range(20):  # handshakes never finished, one byte at a time
            drip = held.enter_context(socket.create_connection(("127.0.0.1", fleet.broker.port), WAIT_S))
            drip.sendall(b"\x16")
        assert_works(victim, "victim", service)
    assert fleet.broker.is_alive


def bare(fleet: SecureFleet, _folder: Path) -> ssl.SSLContext:
    return client_context(TlsFiles(root=fleet.folder / "ca" / "root.pem"))


def of_another_authority(fleet: SecureFleet, folder: Path) -> ssl.SSLContext:
    other = make_authority(folder / "other", fleet=FLEET, host="127.0.0.1", now=datetime.now(UTC))
    return client_context(fleet.files("mallory", authority=other))


def expired(fleet: SecureFleet, _folder: Path) -> ssl.SSLContext:
    return client_context(fleet.files("mallory", life_s=60, ago_s=120))


def of_the_broker_itself(fleet: SecureFleet, _folder: Path) -> ssl.SSLContext:
    return client_context(fleet.authority.files("server"))  # for servers alone: no client may use it


def tls_1_2(fleet: SecureFleet, _folder: Path) -> ssl.SSLContext:
    context = fleet.context("mallory")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def revoked(fleet: SecureFleet, _folder: Path) -> ssl.SSLContext:
    context = fleet.context("mallory")
    assert is_let_in(fleet, context)
    fleet.authority.write_crl([int(fleet.issued["mallory"].serial, 16)], unix_s=time.time())
    fleet.broker.reload()
    time.sleep(0.3)
    return context


def signed_by_a_device(fleet: SecureFleet, folder: Path) -> ssl.SSLContext:
    own = fleet.files("mallory")
    assert own.certificate is not None
    assert own.key is not None
    mallory = Signer(load_key(own.key), der_of(load_pem(own.certificate)))
    signed = sign(mallory, "victim", make_key(folder / "forged.key"))
    save_pem(folder / "forged.pem", [x509.load_der_x509_certificate(one) for one in signed.chain])
    return client_context(TlsFiles(root=own.root, certificate=folder / "forged.pem", key=folder / "forged.key"))


KINDS = [bare, of_another_authority, expired, of_the_broker_itself, tls_1_2, revoked, signed_by_a_device]


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_certificate_does_not_get_in(
    fleet: SecureFleet,
    victim: MqttLink,
    service: MqttLink,
    tmp_path: Path,
    kind: Callable[[SecureFleet, Path], ssl.SSLContext],
) -> None:
    assert is_let_in(fleet, fleet.context("honest"))
    assert not is_let_in(fleet, kind(fleet, tmp_path))
    assert_works(victim, "victim", service)


def test_a_revoked_device_does_not_come_back_by_resuming_its_tls_session(fleet: SecureFleet) -> None:
    context = fleet.context("mallory")
    with raw(fleet, context) as link:
        link.sendall(CONNECT)
        assert link.recv(256)[:1] == b"\x20"
        session = link.session
    fleet.authority.write_crl([int(fleet.issued["mallory"].serial, 16)], unix_s=time.time())
    fleet.broker.reload()
    time.sleep(0.3)
    plain = socket.create_connection(("127.0.0.1", fleet.broker.port), WAIT_S)
    answer = b""
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as again,
    ):
        again.sendall(CONNECT)
        answer = again.recv(4)
    plain.close()
    assert answer[:1] != b"\x20"


def test_plain_mqtt_gets_no_answer(fleet: SecureFleet) -> None:
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", fleet.broker.port), WAIT_S) as link:
        link.sendall(CONNECT)
        answer = link.recv(4)
    assert answer[:1] != b"\x20"


# paho leaves a socket whose handshake failed to the garbage collector, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_device_that_plays_the_broker_is_not_believed(fleet: SecureFleet) -> None:
    certificate, key = server_pretender(fleet, "mallory")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError), server.wrap_socket(peer, server_side=True):
                    pass

        pretender = threading.Thread(target=serve)
        pretender.start()
        link = fleet.link("victim", [], port=listener.getsockname()[1])
        event = link.receive(WAIT_S)
        pretender.join()
    assert isinstance(event, LinkDown)
    assert "CERTIFICATE_VERIFY_FAILED" in event.why


def test_a_revoked_devices_live_connection_is_ended_for_good(
    fleet: SecureFleet, victim: MqttLink, service: MqttLink
) -> None:
    mallory = fleet.device("mallory")
    fleet.authority.write_crl([int(fleet.issued["mallory"].serial, 16)], unix_s=time.time())
    fleet.broker.reload()
    time.sleep(0.3)
    own = fleet.authority.make_eviction("mallory", unix_s=time.time())
    evictor = fleet.link("anything", [], files=own)
    assert isinstance(evictor.receive(WAIT_S), LinkUp)
    next_down(mallory)
    evictor.close()
    next_down(mallory)  # it tried again and was refused
    assert not mallory.is_up
    assert_works(victim, "victim", service)


def stranger(claims: SecureFleet, client_id: str, filters: list[str]) -> MqttLink:
    return claims.link(client_id, filters, tls=pinned_later)


def test_a_stranger_on_the_claim_broker_reaches_its_own_topics_and_the_welcome_alone(claims: SecureFleet) -> None:
    service = claims.service([f"ef/1/{FLEET}/claim/+/up"], port=claims.service_port)
    service.publish(f"ef/1/{FLEET}/welcome", b"hello", retain=True)
    honest = stranger(claims, "a1", [f"ef/1/{FLEET}/claim/a1/down", f"ef/1/{FLEET}/welcome"])
    mallory = stranger(claims, "b2", ["#", f"ef/1/{FLEET}/claim/a1/down"])
    assert isinstance(honest.receive(WAIT_S), LinkUp)
    assert isinstance(mallory.receive(WAIT_S), LinkUp)
    assert hears(honest) == [f"ef/1/{FLEET}/welcome"]
    for topic in (f"ef/1/{FLEET}/claim/a1/up", f"ef/1/{FLEET}/welcome", f"ef/1/{FLEET}/claim/a1/down", UP):
        mallory.publish(topic, b"forged")
    assert honest.publish(f"ef/1/{FLEET}/claim/a1/up", b"claim")
    assert hears(service) == [f"ef/1/{FLEET}/claim/a1/up"]
    service.publish(f"ef/1/{FLEET}/claim/a1/down", b"answer")
    assert hears(honest) == [f"ef/1/{FLEET}/claim/a1/down"]
    assert set(hears(mallory)) <= {f"ef/1/{FLEET}/welcome"}


@pytest.mark.parametrize("client_id", ["+", "#", "a1/up", "../a1"])
def test_a_client_id_with_a_meaning_in_topics_opens_nothing(claims: SecureFleet, client_id: str) -> None:
    service = claims.service([f"ef/1/{FLEET}/claim/#"], port=claims.service_port)
    mallory = stranger(claims, client_id, ["#", f"ef/1/{FLEET}/claim/+/down"])
    mallory.receive(WAIT_S)
    mallory.publish(f"ef/1/{FLEET}/claim/a1/up", b"forged")
    service.publish(f"ef/1/{FLEET}/claim/a1/down", b"answer")
    assert hears(mallory) == []


def test_a_stranger_is_not_let_onto_the_services_port_or_the_fleets_broker(claims: SecureFleet) -> None:
    link = claims.link("service", [], tls=pinned_later, port=claims.service_port)
    assert isinstance(link.receive(WAIT_S), LinkDown)
    device = claims.link("pi", [], port=claims.service_port)
    device.receive(WAIT_S)
    service = claims.service([f"ef/1/{FLEET}/claim/+/up"], port=claims.service_port)
    device.publish(f"ef/1/{FLEET}/claim/a1/up", b"forged")
    assert hears(service) == []
