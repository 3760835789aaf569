"""Decides on a claim: enrolled, waiting for a person, answered as before, or refused for one counted reason.

Laws: a token lets in one device with one pair of keys, once; the same claim again gets the same certificate again and
changes nothing; a revoked device never comes back under its name; a name belongs to the signing key that had it first,
and once it has a second key to that pair.
No IO, no clock, no X.509: facts and time are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from protocol.enrolment import Claim, ClaimReason

__all__ = [
    "Approval",
    "CertificateRecord",
    "ClaimDecision",
    "ClaimFacts",
    "DeviceRecord",
    "DeviceStatus",
    "Enrol",
    "Refuse",
    "TokenRecord",
    "Wait",
    "decide_claim",
    "is_near",
]

DeviceStatus: TypeAlias = Literal["pending", "approved", "revoked"]
Approval: TypeAlias = Literal["token", "manual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device that enrolled or was revoked; times are seconds of Unix time."""

    device: str
    verify_key: bytes  # Ed25519, raw; empty for a revoked device that was only ever in devices.toml
    status: DeviceStatus
    since_unix_s: float  # of this status
    is_shut_out: bool = False  # revoked, and the broker made to know it
    second_key: bytes | None = None  # ML-DSA-65, raw; from then on nothing is taken that it did not sign


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token that was given out; its secret is known by its SHA-256 alone."""

    digest: bytes
    expires_unix_s: float
    device: str | None = None  # who came with it
    verify_key: bytes | None = None
    tls_key: bytes | None = None  # SHA-256 of the public key
    serial: str | None = None  # of the certificate that was issued for it


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """A certificate that was issued."""

    serial: str  # hex: SQL has no integers of 160 bits
    device: str
    ends_unix_s: float
    der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFacts:
    """What is known when a claim comes.

    Attributes:
        token: the token with the claim's secret.
        known_key: the signing key that has the claimed name, from the database or from devices.toml.
        known_second: the second key of that name, likewise; None if it has none so far.
        status: of the device in the database.
        tls_key: SHA-256 of the public key in the claim's certificate request.
        now_unix_s: our clock.
        max_skew_s: by how much the device's clock may differ.
        approval: whether a token is enough.
    """

    token: TokenRecord | None
    known_key: bytes | None
    known_second: bytes | None = None
    status: DeviceStatus | None
    tls_key: bytes
    now_unix_s: float
    max_skew_s: float
    approval: Approval


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol:
    """Give the device a certificate: the one with ``serial`` again, or a new one."""

    serial: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Keep the device as pending until a person approves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse the claim."""

    reason: ClaimReason


ClaimDecision: TypeAlias = Enrol | Wait | Refuse


def decide_claim(claim: Claim, facts: ClaimFacts) -> ClaimDecision:
    """Return what to do with a claim whose signature and certificate request hold."""
    reason = _refusal(claim, facts)
    if reason is not None:
        return Refuse(reason=reason)
    if facts.token is not None and facts.token.serial is not None:
        return Enrol(serial=facts.token.serial)
    if facts.approval == "manual" and facts.status != "approved":
        return Wait()
    return Enrol()


def is_near(unix_s: float, now_unix_s: float, max_skew_s: float) -> bool:
    """Return whether a device's clock is close enough to ours."""
    return abs(unix_s - now_unix_s) <= max_skew_s


def _refusal(claim: Claim, facts: ClaimFacts) -> ClaimReason | None:
    token = facts.token
    if not is_near(claim.unix_s, facts.now_unix_s, facts.max_skew_s):
        return "clock-skew"
    if token is None:
        return "unknown-token"
    if token.device is None and facts.now_unix_s > token.expires_unix_s:
        return "expired-token"
    user, this = (token.device, token.verify_key, token.tls_key), (claim.device, claim.verify_key, facts.tls_key)
    if token.device is not None and user != this:
        return "used-token"
    if facts.status == "revoked":
        return "device-revoked"
    is_own = facts.known_key in (None, claim.verify_key) and facts.known_second in (None, claim.second_key)
    return None if is_own else "name-taken"
