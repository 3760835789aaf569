"""Who may do what over HTTP: bearer tokens, each with a role. Pure; how they are stored is ``adapters.sql_access``'s.

Laws: a secret is known by its SHA-256 alone; it is compared with every token in constant time, so that the time tells
nothing; a role allows everything that the roles below it do. A secret has 256 random bits, so a plain hash is enough:
there is nothing to guess (NIST SP 800-63B, section 5.1.2.2, on look-up secrets of 112 bits and more).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ROLES", "AccessRecord", "Role", "allows", "digest_of", "find_holder"]

Role: TypeAlias = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")  # from least to most


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRecord:
    """A token that was given out; times are seconds of Unix time."""

    name: str
    digest: bytes  # SHA-256 of the secret
    role: Role
    created_unix_s: float
    expires_unix_s: float


def allows(role: Role, needed: Role) -> bool:
    """Return whether a holder of ``role`` may do what needs ``needed``."""
    return ROLES.index(role) >= ROLES.index(needed)


def digest_of(secret: str) -> bytes:
    """Return the hash under which a secret is known."""
    return hashlib.sha256(secret.encode()).digest()


def find_holder(secret: str, records: Sequence[AccessRecord], *, now_unix_s: float) -> AccessRecord | None:
    """Return the token that ``secret`` is, if it has not expired; looks at every token whatever it finds."""
    digest, found = digest_of(secret), None
    for record in records:
        if hmac.compare_digest(digest, record.digest):
            found = record
    return found if found is not None and now_unix_s < found.expires_unix_s else None
