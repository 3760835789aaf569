"""Who a device is and whom it believes: from ``agent.toml`` and, where it enrolled, from what enrolment brought.

Law: where the service was introduced with a second key, both sides sign twice, and a missing key stops the agent with
one line instead of messages that nobody takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.keys import load_or_make_signing_key, load_second_public, second_key_file
from protocol.errors import ConfigError
from protocol.signing import VerifyKey

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.adapters.identity import Enrolment
    from edge_agent.config import DeviceSettings
    from protocol.signing import SigningKey

__all__ = ["believed_service", "own_key"]


def own_key(settings: DeviceSettings, *, here: Path, enrolment: Enrolment | None) -> SigningKey:
    """Return this device's signing key, made if there is none; with its second key, if it has one.

    Raises:
        ConfigError: it cannot be used, or the fleet knows its second key and that is gone (the user's fault).
    """
    path = here / settings.key
    key = load_or_make_signing_key(path)
    if enrolment is not None and enrolment.service_second_key is not None and key.public.second is None:
        raise ConfigError(
            f"{second_key_file(path)}: missing, and the service takes nothing that it did not sign; put it back, or "
            "enrol under a new name"
        )
    return key


def believed_service(settings: DeviceSettings, *, here: Path, enrolment: Enrolment | None) -> VerifyKey:
    """Return the service's public key; what ``agent.toml`` says comes before what enrolment brought.

    Raises:
        ConfigError: neither names one, or it is no key (the user's fault).
    """
    first = settings.service_key or (None if enrolment is None else enrolment.service_key)
    if first is None:
        raise ConfigError("this device has not enrolled, and device.service_key is missing")
    try:
        if settings.service_second_key is not None:
            second: bytes | None = load_second_public(here / settings.service_second_key)
        elif enrolment is not None and enrolment.service_second_key is not None:
            second = bytes.fromhex(enrolment.service_second_key)
        else:
            second = None
        return VerifyKey(bytes.fromhex(first), second=second)
    except ValueError as error:
        raise ConfigError("the service's public key is damaged; enrol again, or correct device.service_key") from error
