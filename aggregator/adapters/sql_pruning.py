"""Removes what enrolment leaves behind: tokens that expired long ago, certificates that ended long ago.

Laws: a certificate of a kept token stays, since the token would otherwise give a second one; so does each device's last
certificate, which says when it was last here; devices stay for good, revoked ones above all. Bound: two certificates
for each device and ``certificate_days`` of life within the time that is kept, and the tokens given out within it.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select

from aggregator.adapters.sql_database import SqlDatabase
from aggregator.adapters.tables import CERTIFICATES, TOKENS

__all__ = ["SqlPruning"]


class SqlPruning(SqlDatabase):
    """Implements ``aggregator.trust_upkeep.Pruning``; ``close`` it at the end."""

    def prune(self, before_unix_s: float) -> tuple[int, int]:
        """Remove what expired before then; return how many tokens and how many certificates."""
        newer = CERTIFICATES.alias("newer")
        latest = select(func.max(newer.c.ends_unix_s)).where(newer.c.device == CERTIFICATES.c.device).scalar_subquery()
        named = select(TOKENS.c.serial).where(TOKENS.c.serial.is_not(None))
        with self._writing() as connection:
            tokens = connection.execute(delete(TOKENS).where(TOKENS.c.expires_unix_s < before_unix_s))
            old = (CERTIFICATES.c.ends_unix_s < before_unix_s) & (CERTIFICATES.c.ends_unix_s < latest)
            ended = connection.execute(delete(CERTIFICATES).where(old, CERTIFICATES.c.serial.not_in(named)))
            return tokens.rowcount, ended.rowcount
