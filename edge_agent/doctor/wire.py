"""Checks of the way to the service: DNS, TCP, TLS, MQTT, topics, announcement.

Laws: publishes nothing. A broker of a fleet with certificates takes the certificate's name for the client id, so a
second connection would push a running agent off: MQTT is tried only while this process holds the agent's lock. The
session is taken up as the agent does, never begun anew; of what arrives, only announcements are acknowledged, which are
retained and so come again at each subscription.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from edge_agent.doctor.finding import Finding
from host.link import LinkDown, LinkUp, Received
from host.mqtt_link import MqttLink
from host.tls import client_context
from protocol import topics
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import Announce, unpack_envelope
from protocol.signing import SERVICE, open_envelope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.doctor.finding import Device
    from host.link import BrokerAddress

__all__ = ["check_announcement", "check_dns", "check_mqtt", "check_tcp", "check_tls", "check_topics"]

_CONNECT_S: Final = 10.0
_REFUSAL_S: Final = 1.0  # in TLS 1.3 the broker judges our certificate after our half of the handshake is done
_UP_S: Final = 20.0
_ATTEMPTS: Final = 2  # MQTT 5, then 3.1.1
_POLL_S: Final = 0.5
_QUIET_S: Final = 1.5  # retained messages follow the subscription at once
_MAX_MESSAGES: Final = 200
# OpenSSL's names of the alerts of RFC 8446, section 6.2, and what the broker then means by them.
_ALERTS: Final = {
    "CERTIFICATE_REVOKED": ("the broker says that this device was revoked", "ask the operator; enrol under a new name"),
    "CERTIFICATE_EXPIRED": (
        "the broker says that the device's certificate expired",
        "check both clocks, or enrol again",
    ),
    "UNKNOWN_CA": (
        "the broker does not know who signed the device's certificate",
        "enrol again with this fleet's token",
    ),
}
# X509_V_ERR_* of OpenSSL's x509_vfy.h
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64


def check_dns(device: Device) -> Finding:
    """Whether the broker's name has an address."""
    address = _address(device)
    try:
        found = sorted(
            {str(info[4][0]) for info in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)}
        )
    except (OSError, UnicodeError) as error:
        fix = "check broker.url (or the enrolment's), the network, and the name server in /etc/resolv.conf"
        return Finding(name="dns", state="failed", what=f"{address.host}: {error}", fix=fix)
    return Finding(name="dns", state="ok", what=f"{address.host} is {', '.join(found[:4])}")


def check_tcp(device: Device) -> Finding:
    """Whether anything listens there."""
    address = _address(device)
    where = f"{address.host}:{address.port}"
    try:
        socket.create_connection((address.host, address.port), timeout=_CONNECT_S).close()
    except OSError as error:
        fix = "is the broker running, the port right, and the way open (firewall, guest network)?"
        return Finding(name="tcp", state="failed", what=f"{where}: {error}", fix=fix)
    return Finding(name="tcp", state="ok", what=f"{where} listens")


def check_tls(device: Device) -> Finding:
    """Whether both sides take each other's certificates; speaks no MQTT, so it disturbs no running agent."""
    address, files = _address(device), device.tls
    if files is None:
        return Finding(name="tls", state="skipped", what="plain MQTT on this machine")
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=_CONNECT_S) as raw,
            client_context(files).wrap_socket(raw, server_hostname=address.host) as link,
        ):
            version = link.version()
            link.settimeout(_REFUSAL_S)
            with contextlib.suppress(TimeoutError):
                if not link.recv(1):
                    fix = "ask the operator for the broker's log at this minute"
                    return Finding(name="tls", state="failed", what="the broker hung up after the handshake", fix=fix)
    except ssl.SSLCertVerificationError as error:
        return _broker_not_believed(address, error)
    except ssl.SSLError as error:
        return _refused(error)
    except (OSError, ConfigError) as error:
        return Finding(name="tls", state="failed", what=str(error), fix="is that port the broker's TLS listener?")
    return Finding(name="tls", state="ok", what=f"{version}; the broker proved to be {address.host}")


def _broker_not_believed(address: BrokerAddress, error: ssl.SSLCertVerificationError) -> Finding:
    match error.verify_code:
        case code if code in {_WRONG_NAME, _WRONG_ADDRESS}:
            what = f"the broker's certificate is not for {address.host}"
            fix = "use the name of `edgefold serve init --host` in broker.url, or enrol again"
        case code if code in {_NOT_YET_VALID, _EXPIRED}:
            what = f"the broker's certificate does not hold now: {error.verify_message}"
            fix = "check this device's clock first; then the operator renews the broker's certificate"
        case _:
            what = f"the broker's certificate is not of this fleet: {error.verify_message}"
            fix = "is it the right broker? if the fleet has a new root, enrol again"
    return Finding(name="tls", state="failed", what=what, fix=fix)


def _refused(error: ssl.SSLError) -> Finding:
    reason = error.reason or str(error)
    for alert, (what, fix) in _ALERTS.items():
        if alert in reason:
            return Finding(name="tls", state="failed", what=what, fix=fix)
    fix = "is that port the broker's TLS listener, and does it speak TLS 1.3?"
    return Finding(name="tls", state="failed", what=f"the handshake failed: {reason}", fix=fix)


def check_mqtt(device: Device) -> Finding:
    """Connect and subscribe as the agent does, unless it is running; keep what the broker has retained."""
    with _agent_kept_out(device.here / device.config.device.folder) as is_out:
        if not is_out:
            what = "the agent is running and has this connection; its log says link-up or link-down and why"
            return Finding(name="mqtt", state="skipped", what=what)
        files = device.tls
        link = MqttLink(
            _address(device),
            client_id=device.config.device.id,
            filters=_filters(device),
            mqtt=device.config.broker.mqtt,
            tls=None if files is None else lambda: client_context(files),
        )
        try:
            return _listen(device, link)
        finally:
            link.close()


def _listen(device: Device, link: MqttLink) -> Finding:
    mqtt, why = _outcome(link)
    if mqtt is None:
        if "refused a subscription" in why:
            device.refusal = why
            return Finding(name="mqtt", state="ok", what="connected")
        fix = "the broker's log says more; is device.id the name that enrolled, and broker.mqtt right?"
        return Finding(name="mqtt", state="failed", what=why, fix=fix)
    for _ in range(_MAX_MESSAGES):
        event = link.receive(_QUIET_S)
        if event is None:
            break
        if isinstance(event, Received) and event.topic.endswith("/announce"):
            device.announced.append((event.topic, event.payload))
            link.acknowledge(event)
    return Finding(name="mqtt", state="ok", what=f"connected by MQTT {mqtt}")


def _outcome(link: MqttLink) -> tuple[str | None, str]:
    """Return the MQTT that the link came up with, or None and why it did not."""
    why, n_downs, until_s = f"no answer in {_UP_S:g} s", 0, time.monotonic() + _UP_S
    while n_downs < _ATTEMPTS and time.monotonic() < until_s:
        match link.receive(_POLL_S):
            case LinkUp(mqtt=mqtt):
                return mqtt, ""
            case LinkDown(why=why):
                n_downs += 1
            case _:
                pass
    return None, why


def check_topics(device: Device) -> Finding:
    """Whether the broker lets the device listen to what is meant for it."""
    if device.refusal is not None:
        fix = "the broker's access list must let a device read its own down topics and announcements (docs/broker.md)"
        return Finding(name="topics", state="failed", what=device.refusal, fix=fix)
    return Finding(name="topics", state="ok", what=f"subscribed to {' and '.join(_filters(device))}")


def check_announcement(device: Device) -> Finding:
    """Whether the service has announced a task, by its own signature, that a bundle here is for."""
    announced: list[Announce] = []
    for topic, payload in device.announced:
        try:
            announced.append(_opened(device, topic, payload))
        except RemoteProtocolError as error:
            fix = "is device.service_key the aggregator's? else somebody else writes there: tell the operator"
            return Finding(name="announcement", state="failed", what=f"{topic}: {error}", fix=fix)
    if not announced:
        fix = "the operator creates a task: edgefold task create FILE; is `edgefold serve` running?"
        return Finding(name="announcement", state="warning", what="the service has announced nothing", fix=fix)
    tasks = {one.task: one for one in announced}
    what = ", ".join(f"{one.task} is {one.state}, round {one.round}" for one in tasks.values())
    wanted = {one.bundle_id for one in tasks.values() if one.state == "open"}
    if wanted and not wanted & {bundle.id for bundle in device.bundles}:
        names = ", ".join(sorted(one[:12] for one in wanted))
        what, fix = f"{what}; no bundle here is {names}", "copy that bundle here and name it in device.bundles"
        if device.bundle_url is not None:
            fix = "the running agent fetches it; see download"
        return Finding(name="announcement", state="warning", what=what, fix=fix)
    return Finding(name="announcement", state="ok", what=f"{what}; signed by the service")


def _opened(device: Device, topic: str, payload: bytes) -> Announce:
    envelope = unpack_envelope(payload, max_bytes=MAX_MESSAGE_BYTES)
    if envelope.sender != SERVICE or device.service_key is None:
        raise RemoteProtocolError(f"it is {envelope.sender}'s, not the service's", reason="wrong-sender")
    body = open_envelope(envelope, fleet=device.config.device.fleet, key=device.service_key)
    if not isinstance(body, Announce) or topic != topics.announce(device.config.device.fleet, body.task):
        raise RemoteProtocolError("not the announcement of this task", reason="malformed")
    return body


def _filters(device: Device) -> list[str]:
    settings = device.config.device
    return [topics.my_down(settings.fleet, settings.id), topics.all_announcements(settings.fleet)]


def _address(device: Device) -> BrokerAddress:
    if device.address is None:  # a failed identity skips these checks
        raise ConfigError("no broker is known")
    return device.address


@contextlib.contextmanager
def _agent_kept_out(folder: Path) -> Iterator[bool]:
    """Hold the agent's lock, if there is one; False if an agent holds it. Makes no file."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
