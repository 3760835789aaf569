"""Poisson sampling: the service's own secret coin for each device and round, thrown once and kept by not keeping it.

Laws: the coin depends on the secret, the task, the round and the device alone, so a device that asks again, or a
service that starts again, finds it as it fell; no device can guess or change it; devices are independent of each
other. With these, a fold over the devices whose coin fell well is the subsampled mechanism that the accountant assumes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

__all__ = ["PoissonSampling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSampling:
    """Takes each device with probability ``rate``."""

    rate: float
    task: str
    secret: bytes = field(repr=False)

    @classmethod
    def of_key(cls, private_raw: bytes, *, task: str, rate: float) -> PoissonSampling:
        """Make the coins from a private key of the service's: devices do not know it, and a restart finds it again."""
        secret = hmac.digest(private_raw, b"edgefold poisson sampling 1", hashlib.sha256)
        return cls(rate=rate, task=task, secret=secret)

    def takes(self, *, round_: int, device: str) -> bool:
        """Return how the coin of this device in this round fell."""
        digest = hmac.digest(self.secret, f"{self.task}/{round_}/{device}".encode(), hashlib.sha256)
        return int.from_bytes(digest[:16], "big") < int(self.rate * 2**128)
