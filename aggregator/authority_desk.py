"""What ``edgefold authority`` does: show the authority's keys, and put a new issuing key into use beside a service."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aggregator.adapters.authority import BACKDATE, Authority
from aggregator.adapters.issuing_keys import former_keys, present_key, renew_issuing
from aggregator.adapters.sql_devices import SqlDevices
from aggregator.config import load_config
from aggregator.folders import Folders, upgrade
from aggregator.trust_upkeep import ends_soon
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.adapters.issuing_keys import IssuingKey
    from aggregator.config import AuthoritySettings, Config

__all__ = ["renew", "show"]

_DAY_S: Final = 86_400.0


def show(config_path: Path, *, as_json: bool) -> None:
    """Print until when root and issuing keys hold.

    Raises:
        ConfigError: the fleet has no authority, or a file of it is missing (the user's fault).
    """
    config = load_config(config_path)
    facts = _facts(Path(_settings(config).folder))
    if as_json:
        return click.echo(json.dumps(facts, indent=2))
    click.echo(f"{'root':<10}until {facts['root_ends']}")
    click.echo(f"{'issuing':<10}until {facts['issuing_ends']}  {facts['issuing']}")
    for one in facts["former"]:
        click.echo(f"{'former':<10}until {one['needed_until']}  {one['issuing']}")
    return click.echo(facts["warning"]) if facts["warning"] else None


def renew(config_path: Path, *, root_key: Path | None, is_stolen: bool) -> None:
    """Put a new issuing key into use.

    Args:
        config_path: the service's settings.
        root_key: where the root's key is now; by default in the authority's folder.
        is_stolen: whether certificates by the present key are refused from now on.

    Raises:
        ConfigError: the root's key is missing or another's (the user's fault).
        StorageError: the folder or the database cannot be written.
    """
    config = load_config(config_path)
    settings, folder = _settings(config), Path(_settings(config).folder)
    folders = Folders.of(config)
    upgrade(folders.database)
    devices, now_unix_s = SqlDevices(folders.database), time.time()
    try:
        renew_issuing(
            folder,
            config.service.fleet,
            root_key_file=root_key or folder / "root.key",
            keep_until_unix_s=None if is_stolen else _needed_until(config, devices, now_unix_s),
            now=datetime.fromtimestamp(now_unix_s, UTC),
        )
        authority = Authority(folder)
        authority.renew_own(settings.host, now=datetime.fromtimestamp(now_unix_s, UTC))
        authority.write_crl(devices.revoked_serials(now_unix_s), unix_s=now_unix_s)
    finally:
        devices.close()


def _needed_until(config: Config, devices: SqlDevices, now_unix_s: float) -> float:
    """Return when the last certificate by the present key will have ended; a service that runs may still give some."""
    given = now_unix_s + config.devices.certificate_days * _DAY_S
    return max(given, devices.last_end_unix_s() or 0.0) + 2 * BACKDATE.total_seconds()


def _settings(config: Config) -> AuthoritySettings:
    if config.authority is None:
        raise ConfigError("this fleet has no [authority]; edgefold serve init makes one")
    return config.authority


def _facts(folder: Path) -> dict[str, Any]:
    present = present_key(folder)
    ends = present.certificate.not_valid_after_utc.timestamp()
    return {
        "root_ends": _when(Authority(folder).root.not_valid_after_utc.timestamp()),
        "issuing": f"{present.certificate.serial_number:x}",
        "issuing_ends": _when(ends),
        "former": [_former(one) for one in former_keys(folder, present)],
        "warning": ends_soon(ends, time.time()),
    }


def _former(one: IssuingKey) -> dict[str, Any]:
    return {"issuing": f"{one.certificate.serial_number:x}", "needed_until": _when(one.until_unix_s or 0.0)}


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
