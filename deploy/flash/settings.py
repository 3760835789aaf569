"""What the fleet's operator says about one device, checked before anything is built."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from deploy.toml_text import toml_text
from host.config import MAX_CONFIG_BYTES, load
from host.durable import read_bytes
from protocol.enrolment import parse_token
from protocol.errors import ConfigError, StorageError
from protocol.fields import FieldError, Length, Name, Range, structure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "DeviceSetup",
    "Wifi",
    "agent_settings",
    "load_agent_tables",
    "load_ssh_keys",
    "load_wifi",
    "make_setup",
    "read_token",
    "wpa_text",
]

_MAX_KEYS_BYTES: Final = 65536
_KEY_KINDS: Final = ("ssh-ed25519 ", "ecdsa-sha2-", "ssh-rsa ", "sk-ssh-ed25519@", "sk-ecdsa-sha2-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wifi:
    """A wireless network. IEEE 802.11: a name of at most 32 bytes, a WPA passphrase of 8 to 63 printable characters."""

    ssid: Annotated[str, Length(1, 32)]
    passphrase: Annotated[str, Length(8, 63)] = field(repr=False)
    country: Annotated[str, Length(2, 2)]  # which frequencies the law allows

    def __post_init__(self) -> None:
        """Refuse what wpa_supplicant's settings file cannot hold."""
        if not (self.passphrase.isascii() and self.passphrase.isprintable()):
            raise FieldError("passphrase: expected printable ASCII")
        if len(self.ssid.encode()) > 32:
            raise FieldError("ssid: expected at most 32 bytes")
        if not (self.country.isascii() and self.country.isalpha() and self.country.isupper()):
            raise FieldError("country: expected two capital letters, such as NL")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    device: Name
    data_mb: Annotated[int, Range(64, 1_000_000)] = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSetup:
    """One device.

    Attributes:
        device: its name in the fleet, and its host name.
        fleet: the fleet that the token is for.
        token: lets it in once.
        tables: more tables of agent.toml, such as ``trainer`` and ``privacy``.
        bundles: folders of bundles to bring along.
        examples: what the device learns from at first; it may be empty.
        wifi: a wireless network besides the wired one.
        ssh_keys: who may log in, in the format of authorized_keys; nobody if empty.
        time_servers: instead of Debian's.
        data_mb: free space of the data partition, before it grows to fill the card.
    """

    device: str
    fleet: str
    token: str = field(repr=False)
    tables: Mapping[str, Any] = field(default_factory=dict)
    bundles: tuple[Path, ...] = ()
    examples: Path | None = None
    wifi: Wifi | None = None
    ssh_keys: str = ""
    time_servers: tuple[str, ...] = ()
    data_mb: int = 512


def make_setup(*, device: str, token: str, data_mb: int = 512, **others: Any) -> DeviceSetup:  # noqa: ANN401 - DeviceSetup's fields
    """Return a device's settings; the fleet is the token's.

    Raises:
        ConfigError: a name, a token or a file is not what it should be (the user's fault).
    """
    try:
        structure(_Names, {"device": device, "data_mb": data_mb})
    except FieldError as error:
        raise ConfigError(str(error)) from error
    token = token.strip()
    setup = DeviceSetup(device=device, token=token, fleet=parse_token(token).fleet, data_mb=data_mb, **others)
    names = [one.resolve().name for one in setup.bundles]
    if len(set(names)) < len(names):
        raise ConfigError(f"bundles: two folders have one name: {', '.join(sorted(names))}")
    for folder in setup.bundles:
        if not (folder / "manifest.json").is_file():
            raise ConfigError(f"{folder}: no bundle here (manifest.json is missing)")
    if setup.examples is not None and not setup.examples.is_file():
        raise ConfigError(f"{setup.examples}: no such file of examples")
    return setup


def load_wifi(path: Path) -> Wifi:
    """Return the wireless network that a TOML file names; the file must not be readable by others.

    Raises:
        ConfigError: no such file, others may read it, or a value is out of its bounds (the user's fault).
    """
    wifi = load(Wifi, path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the passphrase; run: chmod 600 {path}")
    return wifi


def read_token(path: Path) -> str:
    """Return the token in ``path``, which others must not be able to read.

    Raises:
        ConfigError: no such file, or others may read it (the user's fault).
    """
    text = _text(path, max_bytes=4096)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the token; run: chmod 600 {path}")
    return text


def load_ssh_keys(path: Path) -> str:
    """Return the public keys in ``path``.

    Raises:
        ConfigError: no such file, or a line that is no public key, such as a private key (the user's fault).
    """
    text = _text(path, max_bytes=_MAX_KEYS_BYTES)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not all(line.startswith(_KEY_KINDS) for line in lines):
        raise ConfigError(f"{path}: expected public keys, a line each, as in ~/.ssh/id_ed25519.pub")
    return "\n".join(lines) + "\n"


def load_agent_tables(path: Path) -> dict[str, Any]:
    """Return tables for agent.toml; the device's identity is not among them.

    Raises:
        ConfigError: no such file, not TOML, or it says who the device is (the user's fault).
    """
    try:
        tables = tomllib.loads(_text(path, max_bytes=MAX_CONFIG_BYTES))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    named = sorted(set(tables.get("device", {})) & {"fleet", "id", "key", "identity", "folder"})
    if named:
        raise ConfigError(f"{path}: device.{named[0]}: comes from the token and --device")
    return tables


def agent_settings(setup: DeviceSetup) -> str:
    """Return agent.toml."""
    names = [one.resolve().name for one in setup.bundles]
    device = {"fleet": setup.fleet, "id": setup.device, "key": "device.key", "bundles": names}
    tables = {key: dict(value) if isinstance(value, dict) else value for key, value in setup.tables.items()}
    train = "examples" + (setup.examples.suffix if setup.examples is not None else ".jsonl")
    tables["device"] = {**tables.get("device", {}), **device}
    tables["data"] = {"train": train, **tables.get("data", {})}
    return toml_text(tables)


def wpa_text(wifi: Wifi) -> str:
    """Return wpa_supplicant's settings."""
    return (
        f"country={wifi.country}\nupdate_config=0\n"
        f"network={{\n  ssid={wifi.ssid.encode().hex()}\n  psk={_quoted(wifi.passphrase)}\n  scan_ssid=1\n}}\n"
    )


def _quoted(text: str) -> str:
    # wpa_supplicant.conf(5): what lies between the first and the last quotation mark of the line; no escapes.
    return f'"{text}"'


def _text(path: Path, *, max_bytes: int) -> str:
    try:
        return read_bytes(path, max_bytes=max_bytes).decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except StorageError as error:
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
