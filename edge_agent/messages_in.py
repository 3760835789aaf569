"""Opens what comes from the service: whose it is, and whether the signature holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.errors import RemoteProtocolError
from protocol.messages import Body, unpack_envelope
from protocol.signing import SERVICE, VerifyKey, open_envelope

if TYPE_CHECKING:
    from host.link import Received

__all__ = ["open_message"]


def open_message(message: Received, *, fleet: str, service_key: VerifyKey) -> Body:
    """Return the body of a message of the fleet's service.

    Raises:
        RemoteProtocolError: it is not the service's, or no message (whoever sent it).
    """
    envelope = unpack_envelope(message.payload, max_bytes=MAX_MESSAGE_BYTES)
    if envelope.sender != SERVICE:
        raise RemoteProtocolError(f"expected a message of the service, got {envelope.sender}'s", reason="wrong-sender")
    return open_envelope(envelope, fleet=fleet, key=service_key)
