"""The commands ``edgefold engine list | install | remove``: which ML runtimes this machine can train with.

Laws: nothing is downloaded but by ``install``, and with ``--wheelhouse`` nothing at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.cli_options import JSON

if TYPE_CHECKING:
    from host.engines import Environment

__all__ = ["engine"]

_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    envvar="EDGEFOLD_ENGINES",
    help="Where engines lie; also $EDGEFOLD_ENGINES. Default: this user's data folder.",
)


@click.group()
def engine() -> None:
    """Choose what trains: each engine has an environment of its own, since their packages exclude each other.

    \b
    portable        built in: the ordinary onnxruntime; every device
    ort-training    onnxruntime-training 1.19; x86-64, Python to 3.12
    litert          LiteRT; phone-class devices
    litert-export   what `edgefold export --engines portable,litert` needs
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is


@engine.command(name="list")
@_FOLDER
@JSON
def list_command(*, folder: Path | None, as_json: bool) -> None:
    """Show every engine, whether it is here, and what is wrong if it is not."""
    from host.engines import SPECS, environment_of  # noqa: PLC0415 - --help needs none of this

    found = [environment_of(name, folder=folder) for name in SPECS]
    if as_json:
        click.echo(json.dumps([_facts(one) for one in found]))
        return
    for one in found:
        click.echo(f"{one.spec.name:<14} {one.state:<12} {one.why or one.spec.summary}")


@engine.command()
@click.argument("name")
@click.option("--wheelhouse", type=click.Path(path_type=Path), help="A folder of wheels; then no index is asked.")
@click.option("--python", help="The interpreter to make its environment with. Default: the running one.")
@_FOLDER
@JSON
def install(*, name: str, wheelhouse: Path | None, python: str | None, folder: Path | None, as_json: bool) -> None:
    """Make the environment of the engine NAME; nothing happens if it is there.

    For devices without a network: put the wheels of `pip download` into a folder and name it with --wheelhouse.
    """
    from host.engine_install import install_engine  # noqa: PLC0415

    def watch(step: str) -> None:
        click.echo(f"engine {name}: {step}", err=True)

    found = install_engine(name, folder=folder, wheelhouse=wheelhouse, python=python, watch=watch)
    click.echo(json.dumps(_facts(found)) if as_json else f"engine {name}: {', '.join(found.spec.packages)}")


@engine.command()
@click.argument("name")
@_FOLDER
@JSON
def remove(*, name: str, folder: Path | None, as_json: bool) -> None:
    """Remove the environment of the engine NAME."""
    from host.engine_install import remove_engine  # noqa: PLC0415

    removed = remove_engine(name, folder=folder)
    said = "removed" if removed else "was not installed"
    click.echo(json.dumps({"name": name, "removed": removed}) if as_json else f"engine {name}: {said}")


def _facts(one: Environment) -> dict[str, object]:
    return {
        "name": one.spec.name,
        "state": one.state,
        "interpreter": one.interpreter,
        "packages": list(one.spec.packages),
        "why": one.why,
    }
