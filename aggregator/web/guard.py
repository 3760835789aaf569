"""Lets requests in by their bearer token (RFC 6750)."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from aggregator.core.access import allows, find_holder
from aggregator.web.limits import FailureLimit
from aggregator.web.problems import Problem
from host.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from aggregator.core.access import AccessRecord, Role

__all__ = ["Guard"]

_MAX_SECRET: Final = 256
_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="edgefold"'}


class Guard:
    """Knows who is asking."""

    def __init__(self, tokens: Callable[[], Sequence[AccessRecord]]) -> None:
        """Ask ``tokens`` at every request, so that a revoked one ends at once."""
        self._tokens, self._failures = tokens, FailureLimit()

    def admit(self, request: Request, needed: Role) -> AccessRecord:
        """Return who is asking.

        Raises:
            Problem: 401 without a good token, 429 after many of them, 403 if the role is not enough.
        """
        holder = self._holder(request.headers.get("authorization", ""))
        if holder is None:
            raise self._refusal(request)
        if not allows(holder.role, needed):
            raise Problem(403, f"this needs the role {needed}, the token {holder.name} has {holder.role}")
        return holder

    def _holder(self, header: str) -> AccessRecord | None:
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(secret) <= _MAX_SECRET:
            return None
        return find_holder(secret.strip(), self._tokens(), now_unix_s=time.time())

    def _refusal(self, request: Request) -> Problem:
        address = request.client.host if request.client is not None else ""
        wait_s = self._failures.note(address, time.monotonic())
        event("http-unauthorized", level=logging.WARNING, address=address, path=request.url.path[:200])
        if wait_s > 0:
            return Problem(429, "too many wrong tokens", headers={"retry-after": str(math.ceil(wait_s))})
        return Problem(401, "expected a bearer token; edgefold serve token makes one", headers=_CHALLENGE)
