"""Seals the global adapter to one device: ``task.privacy.seal_adapter``.

Laws: a task that asks for it never hands out a readable adapter (``core.intake`` declines joins without a key); each
device's copy is sealed anew, bound to fleet, task, bundle, round, version and device. Cost: one HPKE sealing a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.errors import LocalProtocolError
from protocol.sealing import adapter_binding, seal

if TYPE_CHECKING:
    from protocol.messages import Join

__all__ = ["SEAL_BYTES", "sealed_adapter"]

SEAL_BYTES: Final = 1136  # what a seal adds: the KEM's two ciphertexts and the AEAD's tag


def sealed_adapter(payload: bytes, join: Join, *, fleet: str, device: str, version: int) -> bytes:
    """Return the encoded adapter as only the device that sent ``join`` can read it.

    Raises:
        LocalProtocolError: the join was let through without a key (a bug).
    """
    if join.seal_key is None:
        raise LocalProtocolError(f"{device}: admitted without a key to seal the adapter to")
    info = adapter_binding(
        fleet=fleet, task=join.task, bundle_id=join.bundle_id, round_=join.round, version=version, device=device
    )
    return seal(payload, public_raw=join.seal_key, info=info)
