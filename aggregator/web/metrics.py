"""``/metrics``: counted from the database when it is scraped, so that a restart of the service resets nothing.

Labels are names that an operator chose (tasks, sets, workers) or fixed words of ours, never devices: the number of
series does not grow with the fleet.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from aggregator.web.probes import free_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from aggregator.web.sources import Sources

__all__ = ["MEDIA_TYPE", "Metrics"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Writes the exposition."""

    def __init__(self, sources: Sources) -> None:
        """Count from ``sources``."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Counts(sources))

    def render(self) -> bytes:
        """Return all series as text.

        Raises:
            StorageError: the database does not answer.
        """
        return bytes(generate_latest(self._registry))


class _Counts(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterator[Metric]:
        yield from ()  # names are known without asking the database

    def collect(self) -> Iterator[Metric]:
        yield from self._service()
        yield from self._counters()
        yield from self._ingest()
        yield from self._tasks()

    def _service(self) -> Iterator[Metric]:
        sources = self._sources
        age_s = sources.pulse.age_s(time.monotonic())
        yield _gauge("edgefold_link_up", "Whether the broker is reached.", float(sources.pulse.is_link_up))
        if age_s is not None:
            yield _gauge("edgefold_pump_age_seconds", "How long ago the service last took an event.", age_s)
        yield _gauge("edgefold_disk_free_bytes", "Under service.folder.", float(free_bytes(sources.folders)))
        yield _gauge("edgefold_start_time_seconds", "When the service began.", sources.started_unix_s)

    def _counters(self) -> Iterator[Metric]:
        totals = self._sources.reports.totals()
        rounds = CounterMetricFamily("edgefold_rounds", "Rounds that ended.", labels=["task", "outcome"])
        for (task, state), count in totals.rounds.items():
            if state in {"folded", "abandoned"}:
                rounds.add_metric([task, state], count)
        yield rounds
        yield _counter("edgefold_updates", "Accepted updates.", totals.updates)
        traffic = CounterMetricFamily("edgefold_traffic_bytes", "Payloads and topics.", labels=["task", "direction"])
        for direction, counts in (("up", totals.bytes_up), ("down", totals.bytes_down)):
            for task, count in counts.items():
                traffic.add_metric([task, direction], count)
        yield traffic
        refusals = CounterMetricFamily("edgefold_refusals", "Refused messages.", labels=["task", "reason"])
        for (task, reason), count in totals.refusals.items():
            refusals.add_metric([task, reason], count)
        yield refusals
        devices = GaugeMetricFamily("edgefold_devices", "Enrolled devices.", labels=["status"])
        for status, count in totals.devices.items():
            devices.add_metric([status], count)
        yield devices
        yield _gauge("edgefold_commands_waiting", "Not obeyed yet.", float(totals.n_waiting_commands))

    def _ingest(self) -> Iterator[Metric]:
        names = self._sources.config.ingest.names
        if not names:
            return
        yield _gauge("edgefold_staged_updates", "That wait for the service.", float(self._sources.staging.n_waiting()))
        seen = GaugeMetricFamily(
            "edgefold_ingest_seen_seconds", "When a worker last had the broker.", labels=["worker"]
        )
        known = {one.worker: one.seen_unix_s for one in self._sources.staging.workers()}
        for name in names:
            seen.add_metric([name], known.get(name, 0.0))
        yield seen

    def _tasks(self) -> Iterator[Metric]:
        sources = self._sources
        states = GaugeMetricFamily("edgefold_task_state", "1 for the task's state.", labels=["task", "state"])
        version = GaugeMetricFamily("edgefold_version", "The newest version.", labels=["task"])
        opened = GaugeMetricFamily("edgefold_round_opened_seconds", "When its newest round began.", labels=["task"])
        accuracy = GaugeMetricFamily("edgefold_accuracy", "Of the newest measured version.", labels=["task", "set"])
        loss = GaugeMetricFamily("edgefold_loss", "Of the newest measured version.", labels=["task", "set"])
        for task in sources.store.tasks():
            newest = sources.store.latest_version(task.task).version
            states.add_metric([task.task, task.state], 1)
            version.add_metric([task.task], newest)
            for round_ in sources.reports.rounds(task.task, limit=1):
                opened.add_metric([task.task], round_.record.opened_unix_s)
            evaluations = sources.store.evaluations(task.task, since=max(0, newest - 20))
            scores = evaluations[max(evaluations)].sets if evaluations else {}
            for name, score in scores.items():
                accuracy.add_metric([task.task, name], score.accuracy)
                loss.add_metric([task.task, name], score.loss)
        yield from (states, version, opened, accuracy, loss)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, by_task: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=["task"])
    for task, count in by_task.items():
        family.add_metric([task], count)
    return family
