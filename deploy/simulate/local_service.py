"""A broker and an aggregator on this machine for a simulation: real processes, one task, no devices of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.local import FleetSpec, LocalFleet
from deploy.simulate.random_bundle import write_random_bundle
from host.durable import make_folder
from protocol.fields import plain
from protocol.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.local import BrokerKind
    from deploy.simulate.profile import Profile

__all__ = ["LocalSpec", "local_fleet", "plan_of"]

TASK = "simulated"
_PLAN = Plan(clip_update_norm=1.0)
_MARGIN = 0.9  # of the devices that may be expected: a round must close although chance was unkind
_MAX_OVER_SELECT = 10.0  # the setting's own bound
_JOINS_A_SECOND = 200.0  # that a service on two busy cores answers with ease


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSpec:
    """What to start.

    Attributes:
        folder: where everything is written.
        n_devices: how many will come.
        profile: of which kinds.
        n_params: of the random adapter.
        rounds: to fold.
        seed: of the adapter.
        cohort: devices a round; by default all that may be expected, with a margin.
        deadline_s: of a round.
        broker: which.
        is_async: one buffer of a third of the cohort after the other, and no rounds.
        service_settings: more keys of ``[service]``, such as ``database``.
        more_tables: more tables of the aggregator's settings, such as ``fold``.
        task_settings: more keys of the task's table, such as ``gate``.
        bundle: in the place of a random one of ``n_params``, which cannot be measured.
        keep_updates: so that ``edgefold task verify`` can fold again.
    """

    folder: Path
    n_devices: int
    profile: Profile
    n_params: int
    rounds: int
    seed: int
    cohort: int | None = None
    deadline_s: float = 120.0
    broker: BrokerKind = "auto"
    is_async: bool = False
    keep_updates: bool = True
    service_settings: Mapping[str, Any] = field(default_factory=dict)
    more_tables: Mapping[str, Any] = field(default_factory=dict)
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    bundle: Path | None = None


def plan_of() -> dict[str, Any]:
    """Return the task's plan as plain values."""
    plan: dict[str, Any] = plain(_PLAN)
    return plan


def local_fleet(spec: LocalSpec) -> LocalFleet:
    """Write the configuration of broker and aggregator; entering what is returned starts them."""
    make_folder(spec.folder)
    bundle = spec.bundle or write_random_bundle(spec.folder / "bundle", n_params=spec.n_params, seed=spec.seed)
    cohort = spec.cohort or _cohort(spec)
    selection = {"straggler_factor": 0.0, "spread_s": round(spec.n_devices / _JOINS_A_SECOND, 3)}
    settings: dict[str, Any] = {"selection": selection, **spec.task_settings}
    if spec.is_async:
        settings |= {"mode": "async", "strategy": "fedbuff", "asynchronous": {"concurrency": spec.n_devices}}
        cohort = max(1, cohort // 3)
    else:
        selection["over_select"] = _over_select(spec)
    return LocalFleet(
        FleetSpec(
            folder=spec.folder / "fleet",
            bundle=bundle,
            devices={},
            plan=_PLAN,
            rounds=spec.rounds,
            task=TASK,
            cohort=cohort,
            min_cohort=1,
            deadline_s=spec.deadline_s,
            broker=spec.broker,
            keep_updates=spec.keep_updates,
            task_settings=settings,
            service_settings=spec.service_settings,
            more_tables=spec.more_tables,
        )
    )


def _cohort(spec: LocalSpec) -> int:
    groups = [spec.profile.group_of(i) for i in range(spec.n_devices)]
    expected = sum(one.available * (1 - one.drop_out) for one in groups)
    return spec.n_devices if expected == spec.n_devices else max(1, int(expected * _MARGIN))


def _over_select(spec: LocalSpec) -> float:
    """Return how many devices need work for each that is to finish it."""
    groups = [spec.profile.group_of(i) for i in range(spec.n_devices)]
    stays = sum(1 - one.drop_out for one in groups) / len(groups)
    return min(_MAX_OVER_SELECT, 1 / (stays * _MARGIN)) if stays < 1 else 1.0
