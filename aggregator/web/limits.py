"""Bounds on what clients may send, and the headers that every answer has.

Laws: no body is read beyond its bound, whatever its headers say; whoever shows wrong tokens again and again hears 429,
while a right token is always let in, so that nobody can lock others out; memory for addresses is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders

from aggregator.web.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["FailureLimit", "SecurityHeaders", "read_body"]

_MAX_ADDRESSES: Final = 4096
# Everything comes from us, scripts and styles only from files; nobody may frame the page or send forms from it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers older than frame-ancestors
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class FailureLimit:
    """Counts wrong tokens by address: ``burst`` at once, one more every ``every_s``."""

    def __init__(self, *, burst: int = 10, every_s: float = 6.0) -> None:
        """Begin with no failures."""
        self._burst, self._every_s = burst, every_s
        self._free_at_s: OrderedDict[str, float] = OrderedDict()  # a virtual queue: when all failures are worked off

    def note(self, address: str, now_s: float) -> float:
        """Count a failure; return for how many seconds the address should keep quiet, 0 if it need not."""
        at_s = max(now_s, self._free_at_s.pop(address, now_s)) + self._every_s
        wait_s = at_s - now_s - self._burst * self._every_s
        self._free_at_s[address] = min(at_s, now_s + (self._burst + 10) * self._every_s)
        if len(self._free_at_s) > _MAX_ADDRESSES:
            self._free_at_s.popitem(last=False)
        return max(0.0, wait_s)


class SecurityHeaders:
    """Adds the headers to every answer; ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers."""

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with if scope["type"] == "http" else send)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        Problem: it is longer than ``max_bytes`` (the client's fault).
    """
    stated = request.headers.get("content-length", "0")
    body = bytearray()
    if not stated.isdecimal() or int(stated[:12]) <= max_bytes:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise Problem(413, f"expected a body of at most {max_bytes} bytes", headers={"connection": "close"})
