"""``edgefold privacy``: what a budget needs, and what was spent. Errors leave to the front door."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["privacy"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
# An adapter of LoRA, rank 8, and a head on MiniLM: the demo's.
_DEMO_PARAMS = 74_498


@click.group()
def privacy() -> None:
    """Plan a privacy budget, and see what a task has spent. docs/privacy.md explains both."""


@privacy.command()
@click.option("--clients", type=click.IntRange(1, 10**7), required=True, metavar="N", help="Devices in the fleet.")
@click.option("--cohort", type=click.IntRange(1, 10**7), required=True, metavar="M", help="Of them in a round.")
@click.option("--rounds", type=click.IntRange(1, 10**5), required=True, metavar="T", help="Folded rounds.")
@click.option("--epsilon", type=click.FloatRange(0.01, 1000), required=True, metavar="E", help="The budget.")
@click.option(
    "--delta",
    type=click.FloatRange(1e-18, 0.01),
    metavar="D",
    help="Chance of no promise; default N^-1.1, at most 0.01.",
)
@click.option(
    "--params", type=click.IntRange(1), default=_DEMO_PARAMS, show_default=True, metavar="P", help="Adapter parameters."
)
@click.option(
    "--sampling",
    type=click.Choice(["poisson", "none"]),
    default="poisson",
    show_default=True,
    help="poisson: the service throws a coin for each device; none: whoever comes first.",
)
@click.option("--distributed", is_flag=True, help="Each device adds a share of the noise under a secure sum.")
@click.option(
    "--corrupt",
    type=click.FloatRange(0, 0.99),
    default=0.05,
    show_default=True,
    metavar="C",
    help="With --distributed: the part of the devices whose noise is not counted.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 0.99),
    default=0.1,
    show_default=True,
    metavar="O",
    help="With --distributed: the part of the devices that may fall silent.",
)
@_JSON
def plan(*, clients: int, cohort: int, rounds: int, epsilon: float, as_json: bool, **more: object) -> None:
    """Print the noise that a budget needs, and what it means.

    With epsilon by round, and whether anything can be learnt under so much noise.
    """
    from aggregator.core.privacy.planning import BudgetQuestion  # noqa: PLC0415 - a command loads what it uses
    from aggregator.privacy_report import print_plan, print_sums_plan  # noqa: PLC0415

    if cohort > clients:
        raise click.UsageError(f"--cohort {cohort} is more than --clients {clients}")
    delta, n_params = more["delta"], more["params"]
    sampling = "none" if more["distributed"] else more["sampling"]  # the service knows who takes part
    question = BudgetQuestion(
        n_clients=clients,
        cohort=cohort,
        n_rounds=rounds,
        epsilon=epsilon,
        delta=delta if isinstance(delta, float) else min(0.01, clients**-1.1),
        n_params=n_params if isinstance(n_params, int) else _DEMO_PARAMS,
        sampling="none" if sampling == "none" else "poisson",
    )
    corrupt, dropout = more["corrupt"], more["dropout"]
    if more["distributed"] and isinstance(corrupt, float) and isinstance(dropout, float):
        print_sums_plan(question, corrupt=corrupt, dropout=dropout, as_json=as_json)
    else:
        print_plan(question, as_json=as_json)


@privacy.command()
@click.argument("task_id", metavar="TASK")
@click.option("--config", "config_path", required=True, metavar="FILE", type=click.Path(path_type=Path))
@_JSON
def ledger(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """Show what a task's rounds have cost. Works beside a running service."""
    from aggregator.report import opened  # noqa: PLC0415 - a command loads what it uses

    with opened(config_path) as desk:
        desk.print_ledger(task_id, as_json=as_json)
