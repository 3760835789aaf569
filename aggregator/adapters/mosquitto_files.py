"""Mosquitto's configuration and access lists, written whole at each start. ``docs/broker.md`` has the same for EMQX.

The fleet's broker and the claim broker are two processes: what strangers do to the second takes nothing from the first,
not a connection, not a client id, not memory.

Laws: with TLS nothing older than version 1.3; on the fleet's broker nobody without a certificate of the fleet's issuing
key, the certificate's name is the user *and the client id* (so that no device can take over another's session), and a
device writes under its own ``up`` alone; on the claim broker a stranger reaches the two topics of its own client id and
the welcome. Without TLS there is one listener, on loopback. Every bound is set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from protocol.signing import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from aggregator.adapters.broker import BrokerConfig

__all__ = ["MAX_INFLIGHT", "BrokerTls", "claim_access", "fleet_access", "mosquitto_config", "write_access"]

AUTOSAVE_S: Final = 10  # SIGKILL loses what Mosquitto queued since its last save; its default is 1,800
MAX_INFLIGHT: Final = 100  # unacknowledged a session; rumqttd's default, Mosquitto's 20 stalls a batch of acks
MAX_CLAIM_PACKET_BYTES: Final = 20 * 2**10  # protocol.enrolment.MAX_CLAIM_BYTES and a topic
MAX_CLAIM_CONNECTIONS: Final = 200  # claims take seconds; more devices at once wait their turn
CLAIM_MEMORY_BYTES: Final = 64 << 20  # Mosquitto refuses messages above it; idle it has 1 MB
CLAIM_QUEUED: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTls:
    """Who may connect, and with which files.

    Attributes:
        fleet: whose topics these are.
        role: ``fleet`` for devices with certificates, ``claims`` for devices that want one.
        authority: the folder of ``adapters.authority``: root, server certificate and revocation list.
        service_port: of the claim broker's second listener, for the service alone.
        workers: names of the certificates that may read updates and nothing else.
    """

    fleet: str
    role: Literal["fleet", "claims"]
    authority: Path
    service_port: int = 0
    workers: tuple[str, ...] = ()


def write_access(config: BrokerConfig) -> None:
    """Write the access lists into the broker's folder, where ``mosquitto_config`` says they are.

    Raises:
        OSError: they cannot be written.
    """
    if config.tls is None:
        return
    fleet, is_fleet = config.tls.fleet, config.tls.role == "fleet"
    devices = fleet_access(fleet, workers=config.tls.workers) if is_fleet else claim_access(fleet)
    files = {"service.acl": _service_access(fleet), "devices.acl": devices}
    for name, text in files.items():
        path = config.folder / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")


def mosquitto_config(config: BrokerConfig, *, port: int) -> str:
    """Return ``mosquitto.conf``."""
    if config.tls is None:
        # This listener is loopback only, which BrokerConfig sees to.
        lines = [f"listener {port} {config.host}", "allow_anonymous true", *_fleet_limits(config)]
    elif config.tls.role == "fleet":
        lines = [
            *_mutual(config, config.tls, port, "devices.acl"),
            "use_username_as_clientid true",
            *_fleet_limits(config),
        ]
    else:
        lines = _claim_broker(config, config.tls, port)
    lines += [
        "sys_interval 0",
        "log_dest stdout",
        "log_type error",
        "log_type warning",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else Mosquitto becomes the user `mosquitto`, who cannot write in our folder
    return "\n".join(lines) + "\n"


def fleet_access(fleet: str, *, workers: Iterable[str] = ()) -> str:
    """Return the fleet broker's access list; %u is the certificate's name. What is not allowed is denied."""
    root = f"ef/1/{fleet}"
    readers = "".join(f"user {name}\ntopic read {root}/dev/+/up/update\n" for name in workers)
    return (
        f"{_service_access(fleet)}{readers}\n"
        f"pattern write {root}/dev/%u/up/+\n"
        f"pattern read {root}/dev/%u/down/+\n"
        f"pattern read {root}/task/+/announce\n"
    )


def claim_access(fleet: str) -> str:
    """Return the claim broker's access list for strangers; %c is the client id that a device chose at random."""
    root = f"ef/1/{fleet}"
    return f"pattern write {root}/claim/%c/up\npattern read {root}/claim/%c/down\npattern read {root}/welcome\n"


def _service_access(fleet: str) -> str:
    return f"user {SERVICE}\ntopic readwrite ef/1/{fleet}/#\n"


def _fleet_limits(config: BrokerConfig) -> list[str]:
    return [
        f"max_packet_size {config.max_packet_bytes}",
        f"max_inflight_messages {MAX_INFLIGHT}",
        f"max_queued_messages {config.max_queued_messages}",
        f"max_queued_bytes {config.max_queued_bytes}",
        f"max_connections {config.max_connections}",
        "persistence true",
        f"persistence_location {config.folder.resolve() / 'state'}/",
        f"autosave_interval {AUTOSAVE_S}",
        "persistent_client_expiration 30d",  # a 3.1.1 session has no expiry of its own
    ]


def _claim_broker(config: BrokerConfig, tls: BrokerTls, port: int) -> list[str]:
    folder = config.folder.resolve()
    return [
        "per_listener_settings true",
        f"listener {port} {config.host}",
        "allow_anonymous true",  # on the claim broker alone, for the three topics of its access list
        *_server_files(tls),
        f"max_connections {MAX_CLAIM_CONNECTIONS}",
        f"acl_file {folder / 'devices.acl'}",
        *_mutual(config, tls, tls.service_port, "service.acl"),
        "max_connections 4",
        f"max_packet_size {MAX_CLAIM_PACKET_BYTES}",
        "max_inflight_messages 20",
        f"max_queued_messages {CLAIM_QUEUED}",
        f"memory_limit {CLAIM_MEMORY_BYTES}",
        "persistence false",
        "persistent_client_expiration 1h",
    ]


def _mutual(config: BrokerConfig, tls: BrokerTls, port: int, access: str) -> list[str]:
    """Return a listener for holders of the fleet's certificates."""
    return [
        f"listener {port} {config.host}",
        "allow_anonymous false",
        *_server_files(tls),
        f"cafile {tls.authority.resolve() / 'ca.pem'}",
        f"crlfile {tls.authority.resolve() / 'crl.pem'}",
        "require_certificate true",
        "use_identity_as_username true",
        f"acl_file {config.folder.resolve() / access}",
    ]


def _server_files(tls: BrokerTls) -> list[str]:
    folder = tls.authority.resolve()
    return ["tls_version tlsv1.3", f"certfile {folder / 'server.pem'}", f"keyfile {folder / 'server.key'}"]
