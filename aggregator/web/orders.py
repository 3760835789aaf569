"""What the interface writes: the same commands, approvals and tokens as the command line, and an event for each.

Law: nothing is decided here; ``task_desk`` and ``device_desk`` check, the service obeys (docs/adr/0010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.config import resolve_task
from aggregator.device_desk import DeviceDesk
from aggregator.task_desk import TaskDesk
from aggregator.web.problems import Problem
from aggregator.web.views import command_facts, device_view
from host.logs import event

if TYPE_CHECKING:
    from aggregator.config import TaskSettings
    from aggregator.core.access import AccessRecord
    from aggregator.core.lifecycle import Verb
    from aggregator.web.sources import Sources

__all__ = ["approve_device", "create_task", "make_device_tokens", "order_task", "revoke_device", "show_command"]


def show_command(sources: Sources, command: int) -> dict[str, Any]:
    """Return what became of a command.

    Raises:
        Problem: 404.
    """
    record = sources.reports.command(command)
    if record is None:
        raise Problem(404, f"there is no command {command}")
    return command_facts(record)


def create_task(sources: Sources, holder: AccessRecord, settings: TaskSettings) -> dict[str, Any]:
    """Write a new task down.

    Raises:
        ConfigError, BundleError: what it names is no good, or the id is taken (the client's fault).
    """
    number, digest = _tasks(sources).add(resolve_task(settings, sources.folders.root))
    event("http-order", by=holder.name, verb="create", task=settings.id, settings_sha256=digest)
    return show_command(sources, number)


def order_task(sources: Sources, holder: AccessRecord, task: str, verb: Verb, version: int | None) -> dict[str, Any]:
    """Write a command down.

    Raises:
        Problem: 404.
        ConfigError: the task's state does not allow it, or there is no such version (the client's fault).
    """
    sources.known(task)
    number = _tasks(sources).order(verb, task, version=version)
    event("http-order", by=holder.name, verb=verb, task=task, version=version)
    return show_command(sources, number)


def approve_device(sources: Sources, holder: AccessRecord, device: str) -> dict[str, Any]:
    """Let a waiting device in.

    Raises:
        Problem: 404.
        ConfigError: it never enrolled, or was revoked (the client's fault).
    """
    device_view(sources, device)
    _devices(sources).approve(device)
    event("http-order", by=holder.name, verb="approve", device=device)
    return device_view(sources, device)


def revoke_device(sources: Sources, holder: AccessRecord, device: str) -> dict[str, Any]:
    """Shut a device out.

    Raises:
        Problem: 404.
        ConfigError: it is known by its work alone (the client's fault).
    """
    device_view(sources, device)
    _devices(sources).revoke(device)
    event("http-order", by=holder.name, verb="revoke", device=device)
    return device_view(sources, device)


def make_device_tokens(sources: Sources, holder: AccessRecord, count: int, expires_s: float) -> dict[str, Any]:
    """Return new tokens for devices.

    Raises:
        ConfigError: the fleet has no authority (the client's fault).
    """
    tokens, expires_unix_s = _devices(sources).make_tokens(count, expires_s=expires_s)
    event("http-order", by=holder.name, verb="device-tokens", count=count)
    return {"tokens": tokens, "expires_unix_s": expires_unix_s}


def _tasks(sources: Sources) -> TaskDesk:
    return TaskDesk(sources.config, sources.store, sources.lifecycle)


def _devices(sources: Sources) -> DeviceDesk:
    return DeviceDesk(sources.config, sources.devices)
