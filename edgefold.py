"""The front door: one command; each subcommand's code is loaded only when it is used.

Laws: an ``EdgefoldError`` is one line on standard error and an exit code, never a traceback; ``edgefold --help`` and
``edgefold agent`` must stay light enough for a device, so nothing is imported here but click and the error tree.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from protocol.errors import ConfigError, EdgefoldError, TrustError

__all__ = ["main"]

# Exit codes, documented in docs/cli.md: 1 is click's abort and our own bugs, 2 a user's mistake.
EXIT_USAGE: Final = 2
EXIT_TRUST: Final = 3
EXIT_FAILED: Final = 4

_COMMANDS: Final = {
    "export": ("export.cli", "export", "Turn a foundation model into a bundle that devices can train."),
    "serve": ("aggregator.cli", "serve", "Run the aggregator: open tasks, run rounds, fold updates."),
    "broker": ("aggregator.cli", "broker", "Run only the MQTT broker, apart from the aggregator."),
    "task": ("aggregator.task_cli", "task", "Create tasks, look at them, pause, stop, roll back, export."),
    "strategies": ("aggregator.cli", "strategies", "List the fold strategies and what each needs."),
    "devices": ("aggregator.cli", "devices", "Let devices in and shut them out."),
    "authority": ("aggregator.authority_cli", "authority", "Look after the keys that sign the fleet's certificates."),
    "backup": ("aggregator.backup_cli", "backup", "Write a service's whole state to one file, while it runs."),
    "restore": ("aggregator.backup_cli", "restore", "Make a service again from a backup."),
    "simulate": ("deploy.simulate.cli", "simulate", "Try a service with thousands of virtual devices."),
    "privacy": ("aggregator.privacy_cli", "privacy", "Plan a privacy budget; see what a task has spent."),
    "engine": (
        "edge_agent.engine_cli",
        "engine",
        "Choose what trains: install the ML runtimes that this machine may use.",
    ),
    "flash": ("deploy.flash.cli", "flash", "Make a device: images for memory cards, installs over ssh, packages."),
    "agent": ("edge_agent.cli", "agent", "Make this machine a learning device."),
}
_EXTRAS: Final = {"export": "export", "aggregator": "aggregator"}


class _FrontDoor(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        module_name, attribute, _ = _COMMANDS[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(module_name.partition(".")[0])
            if extra is None:
                raise
            raise ConfigError(f"{error.name} is not installed; run: pip install 'edgefold[{extra}]'") from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(cls=_FrontDoor, epilog="See the whole loop on this machine: make demo. Every command has --help.")
@click.version_option(package_name="edgefold")
def _edgefold() -> None:
    """Adapt foundation models on the devices that people already own; their data never leaves them.

    \b
    model owner       edgefold export MODEL --out BUNDLE     give a model a trainable adapter
    service operator  edgefold serve --config FILE           run rounds and fold updates
    fleet operator    edgefold flash --target rpi --out F    make a memory card a learning device
                      edgefold agent run --config FILE       or the machine at hand
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is


def main() -> None:
    """Run the command line."""
    parent = os.environ.pop("EDGEFOLD_PARENT", "")
    if parent.isdecimal():  # set by a local fleet: leave nothing running when its owner is gone
        importlib.import_module("host.parent").die_with_parent(int(parent))
    try:
        _edgefold(prog_name="edgefold")
    except EdgefoldError as error:
        click.echo(f"edgefold: {' '.join(str(error).split())}", err=True)
        sys.exit(_exit_code(error))


def _exit_code(error: EdgefoldError) -> int:
    match error:
        case ConfigError():
            return EXIT_USAGE
        case TrustError():
            return EXIT_TRUST
        case _:
            return EXIT_FAILED


if __name__ == "__main__":
    main()
