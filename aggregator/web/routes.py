"""The ASGI application: probes, metrics, the interface, the page.

Laws: a request is let in before anything of it is read; every handler runs on one of a few worker threads; every
refusal is a problem document.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aggregator.web.guard import Guard
from aggregator.web.limits import SecurityHeaders, read_body
from aggregator.web.metrics import MEDIA_TYPE, Metrics
from aggregator.web.openapi import API, openapi_document
from aggregator.web.operations import OPERATIONS, Call
from aggregator.web.probes import check_ready
from aggregator.web.problems import Problem, answer_error, answer_problem, document
from protocol.errors import EdgefoldError
from protocol.fields import FieldError, structure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from aggregator.web.operations import Operation
    from aggregator.web.sources import Sources

__all__ = ["make_app"]

_STATIC: Final = Path(__file__).parent / "static"
_MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
)
_N_WORKERS: Final = 4  # SQLite reads side by side; more would only take cores from the rounds
_READY_FOR_S: Final = 2.0  # strangers may ask: they must not make the disk busy


def make_app(sources: Sources) -> ASGIApp:
    """Return the application over ``sources``."""
    web = _Web(sources)
    by_route: dict[str, dict[str, Operation]] = {}
    for one in OPERATIONS:
        by_route.setdefault(one.route, {})[one.method] = one
    routes = [
        Route("/healthz", web.health, methods=["GET"]),
        Route("/readyz", web.ready, methods=["GET"]),
        Route("/metrics", web.metrics, methods=["GET"]),
        Route(f"{API}/openapi.json", web.openapi, methods=["GET"]),
        *(
            Route(API + route, functools.partial(web.answer, of_method), methods=list(of_method))
            for route, of_method in by_route.items()
        ),
        *(Route(path, _fixed(file), methods=["GET"]) for path, file in _files().items()),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: answer_problem,
        Problem: answer_problem,
        EdgefoldError: answer_error,
        Exception: answer_error,
    }
    # Around Starlette, not within: an answer to a bug of ours has the headers too.
    return SecurityHeaders(Starlette(routes=routes, exception_handlers=handlers))


def _files() -> dict[str, Path]:
    """Return the page's files by path: these and no others are ever served."""
    files = {f"/{path.name}": path for path in sorted(_STATIC.iterdir()) if path.suffix in _MEDIA_TYPES}
    return {"/": files["/index.html"], **files}


def _fixed(file: Path) -> Callable[[Request], Awaitable[Response]]:
    data = file.read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(data, media_type=_MEDIA_TYPES[file.suffix])

    return answer


class _Web:
    def __init__(self, sources: Sources) -> None:
        self._sources, self._guard = sources, Guard(sources.access.tokens)
        self._metrics, self._document = Metrics(sources), openapi_document()
        self._workers = CapacityLimiter(_N_WORKERS)
        self._lock = threading.Lock()
        self._checked_s, self._checks = -_READY_FOR_S, dict[str, bool]()

    async def health(self, _request: Request) -> Response:
        if not self._sources.pulse.is_turning(time.monotonic()):
            return document(503, "the service's pump does not turn")
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        checks = await self._run(self._ready)
        if all(checks.values()):
            return JSONResponse({"status": "ok"})
        return document(503, "not ready: " + ", ".join(name for name, holds in checks.items() if not holds))

    async def metrics(self, request: Request) -> Response:
        await self._run(self._guard.admit, request, "viewer")
        return Response(await self._run(self._metrics.render), media_type=MEDIA_TYPE)

    async def openapi(self, _request: Request) -> Response:
        return JSONResponse(self._document)

    async def answer(self, of_method: Mapping[str, Operation], request: Request) -> Response:
        one = of_method["GET" if request.method == "HEAD" else request.method]
        holder = await self._run(self._guard.admit, request, one.role)
        http = self._sources.config.http
        body = None if http is None or one.body is None else await _body(request, one.body, http.max_body_bytes)
        call = Call(
            sources=self._sources,
            holder=holder,
            path=_checked(one.path, request.path_params, "path"),
            query=_checked(one.query, _single(request), "query"),
            body=body,
        )
        return JSONResponse(await self._run(one.handle, call), one.status)

    def _ready(self) -> dict[str, bool]:
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._checked_s >= _READY_FOR_S:
                self._checks, self._checked_s = check_ready(self._sources), now_s
            return self._checks

    async def _run(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - the function's
        return await to_thread.run_sync(functools.partial(function, *arguments), limiter=self._workers)


async def _body(request: Request, cls: type, max_bytes: int) -> object:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "expected a body of the type application/json")
    return _decoded(cls, await read_body(request, max_bytes=max_bytes))


def _decoded(cls: type, data: bytes) -> object:
    """Return a body as ``cls``.

    Raises:
        Problem: 400 or 422, it is none (the client's fault).
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"no JSON: {error}") from error
    return _structured(cls, value, "body")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _number(text: str) -> float:
    """Return a JSON number; 5.0 is the integer 5, as JSON Schema has it, and fields of floats take both."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= 2**53 else value


def _single(request: Request) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise Problem(422, f"query: {name[:64]} occurs twice")
        values[name] = value
    return values


def _checked(cls: type, values: Mapping[str, str], place: str) -> object:
    """Return parameters as ``cls``: what reads as a whole number is one where the field is one."""
    numbers = {name for name, hint in cls.__annotations__.items() if "int" in str(hint)}
    read: dict[str, object] = dict(values)
    for name in numbers & read.keys():
        text = values[name]
        if text.isascii() and text.isdecimal() and len(text) <= 10:
            read[name] = int(text)
    return _structured(cls, read, place)


def _structured(cls: type, value: object, place: str) -> object:
    try:
        return structure(cls, value, lenient_floats=True)
    except FieldError as error:
        raise Problem(422, f"{place}: {error}") from error
