"""What ``edgefold devices`` does: give out tokens, list, show, approve, revoke. Works beside a running service."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cryptography import x509

from aggregator.adapters.authority import Authority
from aggregator.adapters.registry import DeviceRegistry
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.brokers import open_authority
from aggregator.config import load_config
from aggregator.core.enrolment import TokenRecord
from aggregator.folders import Folders, upgrade
from aggregator.service_key import service_key
from aggregator.trust_setup import make_welcome
from aggregator.trust_upkeep import ends_soon
from protocol.enrolment import SECRET_BYTES, Token, fingerprint, pack_welcome, token_text
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.config import Config
    from aggregator.core.enrolment import DeviceRecord

__all__ = ["DeviceDesk", "opened"]


@contextmanager
def opened(config_path: Path) -> Iterator[DeviceDesk]:
    """Open the devices of the service in ``config_path``; its database is made if it is missing.

    Raises:
        ConfigError, StorageError: see the parts.
    """
    config = load_config(config_path)
    folders = Folders.of(config)
    upgrade(folders.database)
    devices = SqlDevices(folders.database)
    try:
        yield DeviceDesk(config, devices)
    finally:
        devices.close()


class DeviceDesk:
    """Answers an operator."""

    def __init__(self, config: Config, devices: SqlDevices) -> None:
        """Work on ``devices``."""
        self._config, self._devices = config, devices

    def give_tokens(self, count: int, *, expires_s: float, as_json: bool) -> None:
        """Make ``count`` tokens and print them.

        Raises:
            ConfigError: see ``make_tokens``.
        """
        tokens, expires_unix_s = self.make_tokens(count, expires_s=expires_s)
        if as_json:
            return click.echo(json.dumps({"tokens": tokens, "expires": _when(expires_unix_s)}, indent=2))
        return click.echo("\n".join(tokens))

    def make_tokens(self, count: int, *, expires_s: float) -> tuple[list[str], float]:
        """Return ``count`` new tokens and until when they hold; only their hashes are kept.

        Raises:
            ConfigError: the fleet has no authority (the user's fault).
        """
        authority, config = open_authority(self._config), self._config
        if authority is None or config.authority is None:
            raise ConfigError("this fleet has no [authority], so no device can enrol; edgefold serve init makes one")
        key = service_key(Path(config.service.key), with_second=config.service.post_quantum_signatures)
        welcome = make_welcome(config.service.fleet, authority, key)
        pin, expires_unix_s = fingerprint(pack_welcome(welcome)), time.time() + expires_s
        url = f"mqtts://{config.authority.host}:{config.broker.claim_port}"
        secrets = [os.urandom(SECRET_BYTES) for _ in range(count)]
        self._devices.add_tokens([TokenRecord(digest=fingerprint(s), expires_unix_s=expires_unix_s) for s in secrets])
        tokens = [token_text(Token(fleet=config.service.fleet, url=url, welcome=pin, secret=s)) for s in secrets]
        return tokens, expires_unix_s

    def print_devices(self, *, as_json: bool) -> None:
        """Print one line a device."""
        facts = [self._facts(one) for one in self._devices.devices()] + self._only_in_file()
        if as_json:
            return click.echo(json.dumps({"devices": facts, "warning": self._warning()}, indent=2))
        if (why := self._warning()) is not None:
            click.echo(why, err=True)
        for one in facts or [{"device": "no device has enrolled yet", "status": "", "certificate_ends": None}]:
            click.echo(f"{one['device']:<32}{one['status']:<12}{one['certificate_ends'] or ''}".rstrip())
        return None

    def print_device(self, device: str, *, as_json: bool) -> None:
        """Print everything about one device.

        Raises:
            ConfigError: there is no such device (the user's fault).
        """
        facts = self._facts(self._known(device))
        if as_json:
            return click.echo(json.dumps(facts, indent=2))
        for key, value in facts.items():
            click.echo(f"{key:<20}{value}")
        return None

    def approve(self, device: str) -> None:
        """Let a waiting device in; it gets its certificate when it asks again.

        Raises:
            ConfigError: there is no such device, or it was revoked (the user's fault).
        """
        if self._known(device).status == "revoked":
            raise ConfigError(f"{device} was revoked: that is for good; let it enrol under another name")
        self._devices.approve(device, time.time())

    def revoke(self, device: str) -> None:
        """Shut a device out for good.

        Raises:
            ConfigError: there is no such device (the user's fault).
        """
        if not any(one["device"] == device for one in self._only_in_file()):
            self._known(device)
        self._devices.revoke(device, time.time())

    def _warning(self) -> str | None:
        settings = self._config.authority
        if settings is None:
            return None
        return ends_soon(Authority(Path(settings.folder)).issuing_ends_unix_s, time.time())

    def _known(self, device: str) -> DeviceRecord:
        record = self._devices.device(device)
        if record is None:
            raise ConfigError(f"no device {device} has enrolled; edgefold devices list shows those that have")
        return record

    def _only_in_file(self) -> list[dict[str, Any]]:
        registry = self._config.devices.registry
        if registry is None:
            return []
        names = [name for name in DeviceRegistry(Path(registry)).names() if self._devices.device(name) is None]
        return [{"device": name, "status": "file", "certificate_ends": None} for name in names]

    def _facts(self, record: DeviceRecord) -> dict[str, Any]:
        newest = next(iter(self._devices.certificates(record.device)), None)
        issued = None if newest is None else x509.load_der_x509_certificate(newest.der)
        return {
            "device": record.device,
            "status": record.status,
            "since": _when(record.since_unix_s),
            "verify_key": record.verify_key.hex(),
            "signs_twice": record.second_key is not None,
            "certificate_serial": None if newest is None else newest.serial,
            "certificate_begins": None if issued is None else _when(issued.not_valid_before_utc.timestamp()),
            "certificate_ends": None if newest is None else _when(newest.ends_unix_s),
            "shut_out": record.is_shut_out,
        }


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
