"""Who is who in a secure sum: the devices' keys for the service, and their certificates for each other.

Laws: a device's certificate is handed on only if it names the key under which the service knows the device, so that an
honest fleet never trips over an old certificate, and only by the issuing key in use, so that one chain stands for all;
whether to believe it is each device's own affair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from aggregator.adapters.authority import Authority
from host.device_certificates import key_of
from host.logs import event
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.signing import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.config import Config
    from aggregator.core.intake import Devices
    from aggregator.ports import Clock
    from aggregator.store_ports import DeviceStore

__all__ = ["DeviceDirectory", "chain_source"]

_DAY_S: Final = 86_400.0


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


def chain_source(config: Config, devices: DeviceStore, clock: Clock) -> Callable[[str], tuple[bytes, ...]] | None:
    """Return what gives a device's certificate and its issuers, or None in a fleet without an authority.

    A device that has not renewed since the issuing key changed gets its next certificate here: the keys in it are those
    that it enrolled with, and it is given to the device when it asks.
    """
    if config.authority is None:
        return None
    authority = Authority(Path(config.authority.folder))
    life_s = config.devices.certificate_days * _DAY_S

    def chain_of(device: str) -> tuple[bytes, ...]:
        record, held = devices.device(device), devices.certificates(device)
        if record is None or not held:
            return ()
        if key_of(x509.load_der_x509_certificate(held[0].der)) != record.verify_key:
            return ()
        authority.refresh()
        newest = next((one for one in held if authority.is_by_present(one.der)), None)
        if newest is None:
            try:
                newest = authority.issue_again(
                    held[0], verify_key=record.verify_key, life_s=life_s, unix_s=clock.unix_s()
                )
            except ConfigError as error:
                event("introduction-refused", level=logging.ERROR, device=device, why=str(error))
                return ()
            devices.add_certificate(newest)
        return authority.chain(newest.der)

    return chain_of
