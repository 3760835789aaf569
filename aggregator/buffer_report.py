"""What ``edgefold task`` says of asynchronous tasks: what waits in the buffer, who works, how stale updates were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aggregator.async_settings import async_of, oldest_welcome
from aggregator.core.buffer import staleness_of
from aggregator.core.gates import published

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.config import TaskSettings
    from aggregator.core.gates import VersionStatus
    from aggregator.core.records import RoundRecord
    from aggregator.store_ports import StoreReader

__all__ = ["ages_in", "buffer_facts", "print_buffer_facts", "where_buffered"]


def buffer_facts(
    settings: TaskSettings, store: StoreReader, known: Mapping[int, VersionStatus]
) -> dict[str, Any] | None:
    """Return what waits in the task's latest buffer and who works; None of a task that lives by rounds.

    ``known`` has every version's status.
    """
    chosen = async_of(settings)
    if chosen is None:
        return None
    latest = store.latest_round(settings.id)
    restored, rejected = store.restored(settings.id), store.rejected(settings.id)
    oldest = oldest_welcome(settings, version=latest.version, restored=restored, rejected=rejected) or 0
    welcome = [one.round for one in store.rounds_from(settings.id, version=oldest)]
    oldest_round = min(welcome, default=latest.round)
    is_open = latest.state in {"open", "closing"}
    candidate = max(known) if published(known, opened_on=latest.version)[1] else None
    return {
        "round": latest.round,
        "version": latest.version,
        "size": settings.cohort,
        "candidate": candidate,
        "staleness": ages_in(latest, store) if is_open else [],
        "concurrency": chosen.concurrency,
        "at_work": list(store.at_work(settings.id, since=oldest_round)),
        "oldest_round": oldest_round,
    }


def ages_in(buffer: RoundRecord, store: StoreReader) -> list[int]:
    """Return the staleness of each update in a buffer, the freshest first; empty of a round."""
    within = store.buffered(buffer.task, buffer.round)
    rejected = store.rejected(buffer.task) if within else ()
    return sorted(staleness_of(one.version, folded_on=buffer.version, rejected=rejected) for one in within)


def where_buffered(task: str, store: StoreReader) -> dict[bytes, tuple[int, int]]:
    """Return the buffer and the version of each asynchronous update, by its id."""
    numbers = [one.round for one in store.rounds(task)]
    within = ((number, one) for number in numbers for one in store.buffered(task, number))
    return {one.update.update_id: (number, one.version) for number, one in within}


def print_buffer_facts(facts: dict[str, Any]) -> None:
    """Print them as two lines."""
    ages = ", ".join(str(one) for one in facts["staleness"]) or "none"
    click.echo(
        f"buffer {facts['round']} on version {facts['version']}: {len(facts['staleness'])} of {facts['size']} updates "
        f"wait; versions that each is behind: {ages}"
    )
    if facts["candidate"] is not None:
        click.echo(
            f"version {facts['candidate']} waits for its verdict; until then devices have version {facts['version']}, "
            "and nothing else is folded"
        )
    click.echo(
        f"{len(facts['at_work'])} devices have work, {facts['concurrency']} may at a time; work since round "
        f"{facts['oldest_round']} is welcome"
    )
