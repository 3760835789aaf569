"""Every operation of the interface in one table: routes, rights, checks and the OpenAPI document are made of it.

Laws: what is not in the table is not served; a handler gets only values that were checked; it runs on a worker thread.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from aggregator.config import TaskSettings
from aggregator.web import orders, schemas, views
from protocol.fields import Length, Name, Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.core.access import AccessRecord, Role
    from aggregator.web.sources import Sources

__all__ = ["OPERATIONS", "Call", "Operation"]

_MAX_PAGE: Final = 1000
_MAX_NUMBER: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, checked."""

    sources: Sources
    holder: AccessRecord
    path: Any
    query: Any
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nothing:
    """No parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    task: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    device: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    command: Annotated[int, Range(1, _MAX_NUMBER)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    limit: Annotated[int, Range(1, _MAX_PAGE)] = 100
    before: Annotated[int, Range(0, _MAX_NUMBER)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    limit: Annotated[int, Range(1, _MAX_PAGE)] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _DevicePage:
    limit: Annotated[int, Range(1, _MAX_PAGE)] = 100
    after: Annotated[str, Length(0, 64)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    verb: Literal["pause", "resume", "stop", "rollback", "promote"]
    version: Annotated[int, Range(0, _MAX_NUMBER)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    count: Annotated[int, Range(1, 1000)] = 1
    expires_s: Annotated[float, Range(1, 365 * 86_400)] = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path; ``path``, ``query`` and ``body`` are dataclasses that say what is taken."""

    id: str
    method: Literal["GET", "POST"]
    route: str
    summary: str
    role: Role
    answer: dict[str, Any]
    handle: Callable[[Call], object]
    path: type = _Nothing
    query: type = _Nothing
    body: type | None = None
    status: int = 200


def _get(
    id_: str,
    route: str,
    summary: str,
    answer: dict[str, Any],
    handle: Callable[[Call], object],
    **facts: Any,  # noqa: ANN401 - an Operation's
) -> Operation:
    return Operation(
        id=id_, method="GET", route=route, summary=summary, role="viewer", answer=answer, handle=handle, **facts
    )


def _me(call: Call) -> dict[str, Any]:
    return {"name": call.holder.name, "role": call.holder.role, "expires_unix_s": call.holder.expires_unix_s}


OPERATIONS: Final[tuple[Operation, ...]] = (
    _get("showMe", "/me", "Who the token says you are", schemas.ME, _me),
    _get("showService", "/service", "How the service is", schemas.SERVICE, lambda c: views.service_view(c.sources)),
    _get("listTasks", "/tasks", "All tasks", schemas.TASKS, lambda c: views.tasks_view(c.sources)),
    _get(
        "showTask",
        "/tasks/{task}",
        "A task: settings, where it is, what was last asked of it",
        schemas.TASK,
        lambda c: views.task_view(c.sources, c.path.task),
        path=_Task,
    ),
    _get(
        "listRounds",
        "/tasks/{task}/rounds",
        "A task's rounds, newest first: participants, updates, loss, bytes, seconds",
        schemas.ROUNDS,
        lambda c: views.rounds_view(c.sources, c.path.task, **dataclasses.asdict(c.query)),
        path=_Task,
        query=_Page,
    ),
    _get(
        "listVersions",
        "/tasks/{task}/versions",
        "A task's versions, newest first: figures on each evaluation set, verdicts",
        schemas.VERSIONS,
        lambda c: views.versions_view(c.sources, c.path.task, **dataclasses.asdict(c.query)),
        path=_Task,
        query=_Page,
    ),
    _get(
        "showRefusals",
        "/tasks/{task}/refusals",
        "How often messages were refused, by reason",
        schemas.REFUSALS,
        lambda c: views.refusals_view(c.sources, c.path.task),
        path=_Task,
    ),
    _get(
        "listDeviceFigures",
        "/tasks/{task}/device-figures",
        "What devices tell of how they learn, over all that told it in a round, newest first",
        schemas.DEVICE_FIGURES,
        lambda c: views.device_figures_view(c.sources, c.path.task, **dataclasses.asdict(c.query)),
        path=_Task,
        query=_Newest,
    ),
    _get(
        "showPrivacy",
        "/tasks/{task}/privacy",
        "What a task promises its devices, and what was spent",
        schemas.PRIVACY,
        lambda c: views.privacy_view(c.sources, c.path.task),
        path=_Task,
    ),
    _get(
        "listDevices",
        "/devices",
        "Devices by name: status, work, bytes",
        schemas.DEVICES,
        lambda c: views.devices_view(c.sources, **dataclasses.asdict(c.query)),
        query=_DevicePage,
    ),
    _get(
        "showDevice",
        "/devices/{device}",
        "One device: key, certificate, work",
        schemas.DEVICE,
        lambda c: views.device_view(c.sources, c.path.device),
        path=_Device,
    ),
    _get(
        "showCommand",
        "/commands/{command}",
        "What became of a command",
        schemas.COMMAND,
        lambda c: orders.show_command(c.sources, c.path.command),
        path=_Command,
    ),
    Operation(
        id="createTask",
        method="POST",
        route="/tasks",
        summary="Create a task: the keys of a [[task]] table; paths are the service's, relative to service.folder",
        role="admin",
        answer=schemas.COMMAND,
        handle=lambda c: orders.create_task(c.sources, c.holder, c.body),
        body=TaskSettings,
        status=202,
    ),
    Operation(
        id="orderTask",
        method="POST",
        route="/tasks/{task}/commands",
        summary="Pause, resume, stop, roll back or promote; the service obeys within a second",
        role="operator",
        answer=schemas.COMMAND,
        handle=lambda c: orders.order_task(c.sources, c.holder, c.path.task, c.body.verb, c.body.version),
        path=_Task,
        body=_Order,
        status=202,
    ),
    Operation(
        id="approveDevice",
        method="POST",
        route="/devices/{device}/approve",
        summary="Let a waiting device in",
        role="operator",
        answer=schemas.DEVICE,
        handle=lambda c: orders.approve_device(c.sources, c.holder, c.path.device),
        path=_Device,
    ),
    Operation(
        id="revokeDevice",
        method="POST",
        route="/devices/{device}/revoke",
        summary="Shut a device out for good",
        role="operator",
        answer=schemas.DEVICE,
        handle=lambda c: orders.revoke_device(c.sources, c.holder, c.path.device),
        path=_Device,
    ),
    Operation(
        id="makeDeviceTokens",
        method="POST",
        route="/device-tokens",
        summary="Make tokens, each of which lets in one device once; shown now and never again",
        role="admin",
        answer=schemas.DEVICE_TOKENS,
        handle=lambda c: orders.make_device_tokens(c.sources, c.holder, c.body.count, c.body.expires_s),
        body=_Tokens,
        status=201,
    ),
)
