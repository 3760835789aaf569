"""The aggregator's commands: ``serve``, ``broker`` and ``task``. Errors leave to the front door."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["broker", "serve", "task"]

_CONFIG = click.option(
    "--config",
    "config_path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's settings, aggregator.toml; docs/aggregator.md explains each.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.command()
@_CONFIG
@click.option("--exit-when-done", is_flag=True, help="Exit with 0 once every task is finished and evaluated.")
def serve(config_path: Path, *, exit_when_done: bool) -> None:
    """Run the aggregator: open tasks, run rounds, fold updates.

    Starts and watches a broker too, unless the settings name one by URL. Everything durable is under service.folder:
    kill it at any moment and start it again.
    """
    from aggregator.config import load_config  # noqa: PLC0415 - a command loads what it uses
    from aggregator.serve import run_service  # noqa: PLC0415

    run_service(load_config(config_path), exit_when_done=exit_when_done)


@click.command()
@_CONFIG
def broker(config_path: Path) -> None:
    """Run only the MQTT broker of the settings' [broker] table, apart from the aggregator."""
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.serve import run_broker  # noqa: PLC0415

    run_broker(load_config(config_path))


@click.group()
def task() -> None:
    """Look at tasks: rounds, versions, metrics, refusals. Works beside a running service."""


@task.command("list")
@_CONFIG
@_JSON
def list_(config_path: Path, *, as_json: bool) -> None:
    """List the tasks: state, rounds folded, newest accuracy."""
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_tasks(as_json=as_json)


@task.command()
@click.argument("task_id", metavar="TASK")
@_CONFIG
@_JSON
def show(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """Show one task: every round, version and metric, and why messages were refused."""
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_task(task_id, as_json=as_json)


@task.command()
@click.argument("task_id", metavar="TASK")
@_CONFIG
@_JSON
def verify(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """Fold every version again from the stored updates and compare byte for byte.

    Needs service.keep_folded_updates = true from the task's first round on.
    """
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_verification(task_id, as_json=as_json)
