"""The command ``edgefold simulate``. Errors leave to the front door."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local import LocalFleet
    from deploy.simulate.profile import Profile
    from deploy.simulate.run import Simulation
    from deploy.simulate.service import Service

__all__ = ["simulate"]

_MAX_DEVICES: Final = 100_000  # of one process: beyond it one thread is the limit, not the service


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    devices: int
    profile: Path | None
    rounds: int
    seed: int
    cohort: int | None
    params: int
    connections: int | None
    broker: str
    config: Path | None
    task: str | None
    folder: Path | None
    deadline_s: float


@click.command()
@click.option("--devices", type=click.IntRange(1, _MAX_DEVICES), required=True, help="How many virtual devices.")
@click.option("--profile", type=click.Path(path_type=Path), help="Speeds, availability, drop-outs; docs/scale.md.")
@click.option("--rounds", type=click.IntRange(1, 10**6), default=3, show_default=True, help="Stop after so many.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Of the devices' behaviour.")
@click.option("--cohort", type=click.IntRange(1, 10**5), help="Devices a round. Default: those that may be expected.")
@click.option("--params", type=click.IntRange(1, 10**8), default=75_268, show_default=True, help="Adapter parameters.")
@click.option("--connections", type=click.IntRange(1), help="Share so few MQTT connections. Default: one a device.")
@click.option("--broker", type=click.Choice(["auto", "mosquitto", "embedded"]), default="auto", show_default=True)
@click.option("--config", type=click.Path(path_type=Path), help="Use this running service instead of a local one.")
@click.option("--task", help="Which task of that service, if it has several.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep keys, journal and the local service here.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(1, 1e6), default=600.0, help="Seconds; 600.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's options, named in _Options
    """Drive a real broker and aggregator with virtual devices: all of the protocol, no training.

    Without --config it starts a service on this machine and, at the end, holds its history against the devices' own
    journal. With --config the devices are written into that service's registry (not for fleets with certificates).
    """
    chosen = _Options(**options)
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgefold-simulate-")))
        facts = _simulate(chosen, folder, stack)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            click.echo(f"{name.replace('_', ' '):<28}{text}")
    if facts.get("is_good") is False:
        raise EngineError("the service's history is not what the devices did")


def _simulate(options: _Options, folder: Path, stack: ExitStack) -> dict[str, Any]:
    from deploy.simulate.identities import make_identities, register  # noqa: PLC0415 - a command loads what it uses
    from deploy.simulate.journal import Journal  # noqa: PLC0415
    from deploy.simulate.profile import STEADY, load_profile  # noqa: PLC0415
    from deploy.simulate.run import Simulation  # noqa: PLC0415
    from deploy.simulate.service import read_service  # noqa: PLC0415
    from host.durable import make_folder  # noqa: PLC0415

    profile = STEADY if options.profile is None else load_profile(options.profile)
    make_folder(folder)
    fleet = None if options.config else _local(options, folder, profile)
    service = read_service(options.config or fleet.aggregator_config, options.task)  # type: ignore[union-attr]  # one of both
    identities = make_identities(folder / "devices.secret", options.devices)
    register(service.registry, identities)
    if fleet is not None:
        stack.enter_context(fleet)
    journal = stack.enter_context(Journal(folder / "journal.jsonl"))
    simulation = Simulation(
        service, identities, journal, profile=profile, seed=options.seed, n_connections=options.connections
    )
    stack.callback(simulation.close)
    return _report(options, simulation, service, fleet, folder)


def _local(options: _Options, folder: Path, profile: Profile) -> LocalFleet:
    from deploy.simulate.local_service import LocalSpec, local_fleet  # noqa: PLC0415

    return local_fleet(
        LocalSpec(
            folder=folder,
            n_devices=options.devices,
            profile=profile,
            n_params=options.params,
            rounds=options.rounds,
            seed=options.seed,
            cohort=options.cohort,
            broker=options.broker,  # type: ignore[arg-type]  # click.Choice
        )
    )


def _report(
    options: _Options, simulation: Simulation, service: Service, fleet: LocalFleet | None, folder: Path
) -> dict[str, Any]:
    from deploy.simulate.audit import audit  # noqa: PLC0415
    from deploy.simulate.local_service import plan_of  # noqa: PLC0415

    started = time.monotonic()
    each: Callable[[], object] = bool if fleet is None else fleet.poll
    if not simulation.run(until=_until(simulation, options.rounds), deadline_s=options.deadline_s, each=each):
        raise EngineError(f"not through {options.rounds} rounds within {options.deadline_s:g} s: {simulation.counts}")
    seconds = time.monotonic() - started
    facts = {
        "devices": options.devices,
        "seconds": seconds,
        "updates_per_s": simulation.counts.n_accepted / seconds,
        "connections": simulation.wire.n_up,
        **dataclasses.asdict(simulation.counts),
    }
    if fleet is not None:
        facts["aggregator_peak_mb"] = fleet.processes["aggregator"].peak_resident_bytes / 2**20
        found = audit(service, folder / "journal.jsonl", seed=options.seed, plan=plan_of())
        facts |= {**dataclasses.asdict(found), "is_good": found.is_good}
    return facts


def _until(simulation: Simulation, rounds: int) -> Callable[[], bool]:
    first: list[int] = []

    def is_over() -> bool:
        if simulation.announced is None:
            return False
        first.append(simulation.announced.version) if not first else None
        is_done = simulation.announced.state == "finished" or simulation.announced.version - first[0] >= rounds
        return is_done and simulation.is_quiet

    return is_over
