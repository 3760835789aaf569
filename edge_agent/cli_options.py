"""Options that several of the agent's commands have."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["CONFIG", "JSON"]

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="agent.toml",
    show_default=True,
    help="The agent's TOML file.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
