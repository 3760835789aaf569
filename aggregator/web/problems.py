"""Problem documents (RFC 9457): every answer that is no success is one, with its status and one line of detail."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from protocol.errors import ConfigError, EdgefoldError, StorageError, TransportError, TrustError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["MEDIA_TYPE", "Problem", "answer_error", "answer_problem", "document"]

MEDIA_TYPE: Final = "application/problem+json"
_MAX_DETAIL: Final = 500


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """A request is refused (the client's fault) or cannot be served.

    Attributes:
        status: of HTTP.
        detail: one line for a person.
        headers: that go with it.
    """

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Keep the facts."""
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def document(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem document of the type ``about:blank``: the status says all there is to tell apart."""
    phrase = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": phrase, "status": status, "detail": " ".join(detail.split())[:_MAX_DETAIL]}
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


async def answer_problem(_request: Request, error: Exception) -> Response:
    """Answer ``Problem`` and Starlette's own 404 and 405."""
    match error:
        case Problem():
            return document(error.status, error.detail, headers=error.headers)
        case HTTPException():
            return document(error.status_code, error.detail, headers=error.headers)
    raise error


async def answer_error(_request: Request, error: Exception) -> Response:
    """Answer what the service's own parts refuse; a bug of ours says nothing about itself, the log has it."""
    match error:
        case ConfigError() | TrustError():
            return document(409, str(error))
        case StorageError() | TransportError():
            return document(503, "the database or the disk does not answer; the service's log says more")
        case EdgefoldError():
            return document(500, "the service's log says more")
    return document(500, "a bug of ours; the service's log has it")
