"""The commands ``edgefold task ...``. Errors leave to the front door."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aggregator.cli import CONFIG_OPTION, JSON_OPTION

if TYPE_CHECKING:
    from aggregator.core.lifecycle import Verb

__all__ = ["task"]

_TASK: Final = click.argument("task_id", metavar="TASK")
_VERSION: Final = click.argument("version", type=click.IntRange(min=0), metavar="VERSION")
_WAIT: Final = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=5.0,
    show_default=True,
    help="Seconds to wait for a running service; without one the command takes effect at its start.",
)


@click.group()
def task() -> None:
    """Create tasks, look at them and steer them. Works beside a running service, and without one."""


@task.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def create(file: Path, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Create the task that FILE describes: the keys of a [[task]] table at top level; docs/aggregator.md has them all.

    A running service begins it without a restart.
    """
    from aggregator import task_desk  # noqa: PLC0415 - a command loads what it uses

    with task_desk.opened(config_path) as desk:
        desk.create(file, wait_s=wait_s, as_json=as_json)


@task.command("list")
@CONFIG_OPTION
@JSON_OPTION
def list_(config_path: Path, *, as_json: bool) -> None:
    """List the tasks: state, rounds folded, newest accuracy."""
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_tasks(as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@JSON_OPTION
def show(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """Show one task: every round, version, metric and verdict, and why messages were refused."""
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_task(task_id, as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@JSON_OPTION
def updates(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """List every accepted update: whose, of which round, and whether it was folded or dropped with its round."""
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_updates(task_id, as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@JSON_OPTION
def verify(task_id: str, config_path: Path, *, as_json: bool) -> None:
    """Fold every version again from the stored updates and compare byte for byte.

    Needs service.keep_folded_updates = true from the task's first round on.
    """
    from aggregator import report  # noqa: PLC0415

    with report.opened(config_path) as desk:
        desk.print_verification(task_id, as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def pause(task_id: str, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Let nobody else in: devices at work finish the open round, and no other opens."""
    _ask("pause", task_id, config_path, wait_s=wait_s, as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def resume(task_id: str, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Go on with a paused task."""
    _ask("resume", task_id, config_path, wait_s=wait_s, as_json=as_json)


@task.command()
@_TASK
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def stop(task_id: str, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """End a task for good: its open round is dropped, devices hear that it is finished. Its versions stay."""
    _ask("stop", task_id, config_path, wait_s=wait_s, as_json=as_json)


@task.command()
@_TASK
@_VERSION
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def rollback(task_id: str, version: int, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Go back to VERSION: a new version gets its content, the open round is dropped, the next starts from there."""
    _ask("rollback", task_id, config_path, version=version, wait_s=wait_s, as_json=as_json)


@task.command()
@_TASK
@_VERSION
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def promote(task_id: str, version: int, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Promote VERSION whatever the gate said or will say."""
    _ask("promote", task_id, config_path, version=version, wait_s=wait_s, as_json=as_json)


@task.command("export-model")
@_TASK
@_VERSION
@CONFIG_OPTION
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new folder.")
@click.option("--model", help="The model that the bundle was made of; by default what its manifest names.")
@JSON_OPTION
@click.pass_context
def export_model(  # noqa: PLR0913 - a command's options are its arguments
    ctx: click.Context, task_id: str, version: int, config_path: Path, *, out: Path, model: str | None, as_json: bool
) -> None:
    """Merge VERSION into its base: a Hugging Face folder and an ONNX inference model that give the same logits.

    Needs edgefold[export]. Nothing is written unless the logits agree on sample batches.
    """
    from aggregator import report  # noqa: PLC0415
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.model_export import export_model as run  # noqa: PLC0415

    with report.opened(config_path) as desk:
        record, bundle = desk.version(task_id, version), desk.settings(task_id).bundle
    ctx.exit(run(load_config(config_path), record, bundle=bundle, out=out, model=model, as_json=as_json))


@task.command("rotate-key")
@_TASK
@CONFIG_OPTION
@_WAIT
@JSON_OPTION
def rotate_key(task_id: str, config_path: Path, *, wait_s: float, as_json: bool) -> None:
    """Seal to a new key from the next round on; the old one is destroyed when that round opens.

    With service.keep_folded_updates = true old keys stay, as the updates do.
    """
    _ask("rotate-key", task_id, config_path, wait_s=wait_s, as_json=as_json)


def _ask(
    verb: Verb, task_id: str, config_path: Path, *, version: int | None = None, wait_s: float, as_json: bool
) -> None:
    from aggregator import task_desk  # noqa: PLC0415

    with task_desk.opened(config_path) as desk:
        desk.ask(verb, task_id, version=version, wait_s=wait_s, as_json=as_json)
