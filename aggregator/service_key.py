"""The service's signing key in its file: made once, with the second key beside it where the settings ask for one.

Law: a second key that was ever made is used, since devices that know it refuse what is not signed by it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.durable import write_bytes
from host.keys import load_or_make_signing_key, second_key_file
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.signing import SigningKey

__all__ = ["service_key"]


def service_key(path: Path, *, with_second: bool) -> SigningKey:
    """Return the service's key, made if it is missing.

    Args:
        path: ``service.key``.
        with_second: ``service.post_quantum_signatures``; its public half is then in a file too, for devices that do
            not enrol.

    Raises:
        ConfigError: its folder is missing, it is no key, or there is a second key that is no longer asked for (the
            user's fault).
    """
    second = second_key_file(path)
    if second.exists() and not with_second:
        raise ConfigError(
            f"service.post_quantum_signatures: devices that know the key in {second} refuse what is not signed by it "
            "too; set it to true, or remove that file and enrol them again"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"service.key: the folder {path.parent} does not exist")
    key = load_or_make_signing_key(path, with_second=with_second)
    public = second.with_name(f"{second.name}.pub")
    if key.public.second is not None and not public.exists():
        write_bytes(public, key.public.second.hex().encode() + b"\n", mode=0o644)
    return key
