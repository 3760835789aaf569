"""What an operator may ask of a task, and when: a table of (command, state), and the rules about versions.

The command line asks these rules before it writes a command down, and the service again before it obeys, since time
passes between the two. Pure.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.core.gates import VersionStatus
    from aggregator.core.records import TaskState

__all__ = ["Verb", "refusal"]

Verb: TypeAlias = Literal["create", "pause", "resume", "stop", "rollback", "promote", "rotate-key"]

_ALWAYS: Final = frozenset({"open", "paused", "finished", "stopped"})
_ALLOWED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "pause": frozenset({"open"}),
        "resume": frozenset({"paused"}),
        "stop": frozenset({"open", "paused"}),
        "rotate-key": frozenset({"open", "paused"}),
        "rollback": _ALWAYS,
        "promote": _ALWAYS,
    }
)


def refusal(
    verb: Verb,
    *,
    state: TaskState | None,
    version: int | None = None,
    statuses: Mapping[int, VersionStatus] | None = None,
) -> str | None:
    """Return why ``verb`` cannot be done, or None.

    Args:
        verb: the command.
        state: the task's; None if it has not begun.
        version: what ``rollback`` and ``promote`` name.
        statuses: every version's, by number.
    """
    if verb == "create":
        return None if state is None else "a task of this id is there already; give the new one another id"
    if state is None:
        return "the task has not begun; the service begins it at its start"
    if state not in _ALLOWED[verb]:
        return f"the task is {state}, only one that is {' or '.join(sorted(_ALLOWED[verb]))} can be told to {verb}"
    if verb not in {"rollback", "promote"}:
        return None
    known = statuses or {}
    if version not in known:
        return f"there is no version {version}; the newest is {max(known, default=None)}"
    return _refused_version(verb, version, known)


def _refused_version(verb: str, version: int | None, statuses: Mapping[int, VersionStatus]) -> str | None:
    newest, status = max(statuses), statuses[version or 0]
    if verb == "promote":
        hint = "" if version == newest else "; to go back to it: rollback"
        return f"version {version} is promoted already{hint}" if status == "promoted" else None
    if version == newest:
        return f"version {version} is the newest; there is nothing to roll back"
    return None if status == "promoted" else f"version {version} was {status}; if you want it all the same: promote"
