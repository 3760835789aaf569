"""Shows a local fleet's rounds as they happen, and keeps the record that the report is made of."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from deploy.local import LocalFleet, Storm
    from deploy.supervised import FleetEvent

__all__ = ["FleetRecord", "RoundRecord", "watch"]

_DEADLINE_S: Final = 3600.0
_KB: Final = 1000


@dataclass(slots=True)
class RoundRecord:
    """What is known of one round; bytes are whole payloads and topics on the wire, all devices together."""

    round: int
    version: int | None = None
    n_updates: int = 0
    loss: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float | None = None
    train_s_max: float = 0.0
    pooled_accuracy: float | None = None


@dataclass(slots=True)
class FleetRecord:
    """What is known of one run."""

    broker: str = ""
    rounds: dict[int, RoundRecord] = field(default_factory=dict)
    evaluations: dict[int, dict[str, Any]] = field(default_factory=dict)  # version -> the event's facts
    progress: dict[str, str] = field(default_factory=dict)  # device -> what it is doing
    update_bytes: list[int] = field(default_factory=list)
    trainer_peak_bytes: int = 0
    agent_peak_bytes: int = 0
    aggregator_peak_bytes: int = 0
    n_restarts: int = 0
    is_finished: bool = False
    final_version: int = 0

    def take(self, event: FleetEvent) -> None:  # noqa: C901 - one case for each event
        """Note one event."""
        facts = event.facts
        match event.name:
            case "broker-started":
                self.broker = str(facts["kind"])
            case "round-opened":
                self.rounds.setdefault(facts["round"], RoundRecord(facts["round"]))
            case "sum-step-taken" if event.source == "aggregator" and facts["step"] == "inputs":
                self._round(facts).n_updates += 1
                self.update_bytes.append(facts["bytes"])
            case "update-accepted":
                self._round(facts).n_updates += 1
                self.update_bytes.append(facts["bytes"])
            case "version-folded":
                self._folded(facts)
            case "version-evaluated":
                self._evaluated(facts)
            case "training-progress":
                self.progress[event.source] = f"step {facts['step']} of {facts['n_steps']}, loss {facts['loss']:.3f}"
            case "training-done":
                self.trainer_peak_bytes = max(self.trainer_peak_bytes, facts["peak_memory_bytes"])
                self.progress[event.source] = f"trained, loss {facts['loss']:.3f}"
            case "training-started" | "update-sent" | "update-receipted" | "training-failed":
                self.progress[event.source] = event.name.replace("-", " ")
            case "task-finished":
                self.is_finished, self.final_version = True, facts["version"]

    @property
    def is_complete(self) -> bool:
        """Whether the task is over and its last version has been evaluated."""
        return self.is_finished and self.final_version in self.evaluations

    def _round(self, facts: dict[str, Any]) -> RoundRecord:
        return self.rounds.setdefault(facts["round"], RoundRecord(facts["round"]))

    def _folded(self, facts: dict[str, Any]) -> None:
        one = self._round(facts)
        one.version, one.n_updates, one.loss = facts["version"], facts["n_updates"], facts["loss"]
        one.seconds, one.train_s_max = facts["seconds"], facts["train_s_max"]
        one.bytes_up, one.bytes_down = facts["bytes_up"], facts["bytes_down"]

    def _evaluated(self, facts: dict[str, Any]) -> None:
        self.evaluations[facts["version"]] = facts
        for one in self.rounds.values():
            if one.version == facts["version"]:
                one.pooled_accuracy = facts["pooled_accuracy"]


def watch(fleet: LocalFleet, console: Console, *, n_params: int, storm: Storm | None = None) -> FleetRecord:
    """Show the fleet until its task is over and evaluated, through a ``storm`` if there is one; return the record."""
    record = FleetRecord()
    with _screen(console) as live:
        for event in fleet.events(deadline_s=_DEADLINE_S):
            record.take(event)
            if storm is not None:
                storm.blow()
            if live is not None:
                live.update(_picture(record, fleet, n_params))
            else:
                _print_line(record, event, console)
            if record.is_complete:
                break
    _note_memory(record, fleet)
    return record


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Live | None]:
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield live


def _note_memory(record: FleetRecord, fleet: LocalFleet) -> None:
    agents = [process for name, process in fleet.processes.items() if name in fleet.spec.devices]
    record.agent_peak_bytes = max(process.peak_resident_bytes for process in agents)
    record.aggregator_peak_bytes = fleet.processes["aggregator"].peak_resident_bytes
    record.broker = record.broker or fleet.broker_kind
    record.n_restarts = sum(process.n_restarts for process in fleet.processes.values())


def _print_line(record: FleetRecord, event: FleetEvent, console: Console) -> None:
    """Print what matters where no live picture can be drawn: a log, CI."""
    if event.name == "version-folded":
        one = record.rounds[event.facts["round"]]
        console.print(
            f"  round {one.round}: {one.n_updates} devices, loss {_number(one.loss, '.3f') or 'unknown'}, "
            f"{one.bytes_up / _KB:.0f} kB up, {one.bytes_down / _KB:.0f} kB down, {one.seconds:.1f} s"
        )
    elif event.name == "version-evaluated":
        console.print(f"  version {event.facts['version']}: pooled accuracy {event.facts['pooled_accuracy']:.3f}")


def _picture(record: FleetRecord, fleet: LocalFleet, n_params: int) -> Table:
    privacy = "in secure sums" if fleet.spec.privacy.get("level") == "secure-sum" else "sealed"
    table = Table(
        title=f"broker: {record.broker or fleet.broker_kind} · {n_params:,} trainable parameters · updates {privacy}",
        title_justify="left",
    )
    for column in ("round", "devices", "loss", "pooled accuracy", "kB up", "kB down", "seconds"):
        table.add_column(column, justify="right")
    untrained = record.evaluations.get(0)
    if untrained is not None:
        table.add_row("0", "", "", f"{untrained['pooled_accuracy']:.3f}", "", "", "")
    for one in record.rounds.values():
        table.add_row(
            str(one.round),
            f"{one.n_updates} of {len(fleet.spec.devices)}",
            _number(one.loss, ".3f"),
            _number(one.pooled_accuracy, ".3f"),
            _number(one.bytes_up / _KB if one.bytes_up else None, ".0f"),
            _number(one.bytes_down / _KB if one.bytes_down else None, ".0f"),
            _number(one.seconds, ".1f"),
        )
    table.caption = "\n".join(f"{device:<18} {doing}" for device, doing in sorted(record.progress.items()))
    table.caption_justify = "left"
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
