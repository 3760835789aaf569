"""Asks for the next certificate when half of the present one's life is over; the session of rounds knows nothing of it.

Laws: the present certificate stays in use until a checked one replaces it; asking is spread and repeated for as long as
there is no answer; the live connection is left alone, since the next one uses the new certificate by itself.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from host.logs import event as log
from protocol.errors import ConfigError, RemoteProtocolError, TrustError
from protocol.messages import Certificate, Renew

if TYPE_CHECKING:
    from edge_agent.adapters.identity import IdentityFolder
    from edge_agent.ports import KeyStore

__all__ = ["AT_FRACTION", "Renewal"]

AT_FRACTION: Final = 0.5
_RETRY_S: Final = (60.0, 120.0)  # of certificates that hold for days; the answer usually takes milliseconds
_MIN_RETRY_FRACTION: Final = 0.05  # ... and of the life of shorter ones


class Renewal:
    """Looks after one device's certificate."""

    def __init__(self, device: str, identity: IdentityFolder, keys: KeyStore) -> None:
        """Read the present certificate.

        Raises:
            ConfigError: it is missing or damaged.
        """
        self._device, self._identity, self._keys = device, identity, keys
        self._random = random.Random()  # noqa: S311 - spreads requests, guards nothing
        self._begin_s, self._end_s = identity.life_unix_s()
        self._not_before_unix_s = 0.0

    def due(self) -> Renew | None:
        """Return the request to send now, or None."""
        now_s, life_s = time.time(), self._end_s - self._begin_s
        if now_s < max(self._begin_s + AT_FRACTION * life_s, self._not_before_unix_s):
            return None
        low, high = (min(wait_s, _MIN_RETRY_FRACTION * life_s) for wait_s in _RETRY_S)
        self._not_before_unix_s = now_s + self._random.uniform(low, high)
        try:
            return Renew(request=self._keys.certificate_request(self._device))
        except ConfigError as error:
            log("renewal-failed", error=str(error))
            return None

    def take(self, certificate: Certificate) -> None:
        """Keep the answer.

        Raises:
            RemoteProtocolError: it is not for this device and key, or not from the fleet's root.
        """
        try:
            self._identity.keep_certificate(certificate.chain, device=self._device)
        except TrustError as error:
            raise RemoteProtocolError(str(error), reason="malformed") from error
        self._begin_s, self._end_s = self._identity.life_unix_s()
        log("certificate-renewed", ends_unix_s=self._end_s)
