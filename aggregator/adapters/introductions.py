"""Who is who in a secure sum: the devices' keys for the service, and their certificates for each other.

Laws: a device's certificate is handed on only if it names the key under which the service knows the device, so that an
honest fleet never trips over an old certificate; whether to believe it is each device's own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from host.certificates import der_of, load_pem
from host.device_certificates import key_of
from protocol.errors import RemoteProtocolError
from protocol.signing import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.config import Config
    from aggregator.core.intake import Devices
    from aggregator.ports import DeviceStore

__all__ = ["DeviceDirectory", "chain_source"]


class DeviceDirectory(Mapping[str, VerifyKey]):
    """The keys of devices that may take part; strangers and revoked devices are not in it. Cannot be listed."""

    def __init__(self, devices: Devices) -> None:
        """Look into ``devices``."""
        self._devices = devices

    def __getitem__(self, device: str) -> VerifyKey:
        """Return the device's key."""
        try:
            key = self._devices.key_of(device)
        except RemoteProtocolError as error:
            raise KeyError(device) from error
        if key is None:
            raise KeyError(device)
        return key

    def __iter__(self) -> Iterator[str]:
        """Refuse: a fleet is not listed for one sum."""
        raise TypeError("a fleet's directory cannot be listed")

    def __len__(self) -> int:
        """Refuse, as above."""
        raise TypeError("a fleet's directory cannot be counted")


def chain_source(config: Config, devices: DeviceStore) -> Callable[[str], tuple[bytes, ...]] | None:
    """Return what gives a device's certificate and its issuers, or None in a fleet without an authority."""
    if config.authority is None:
        return None
    folder = Path(config.authority.folder)

    def chain_of(device: str) -> tuple[bytes, ...]:
        record, held = devices.device(device), devices.certificates(device)
        if record is None or not held:
            return ()
        names_key = key_of(x509.load_der_x509_certificate(held[0].der)) == record.verify_key
        return (held[0].der, *der_of(load_pem(folder / "issuing.pem"))) if names_key else ()

    return chain_of
