"""What ``edgefold flash`` is told on its command line, and what of it does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Options", "batch_options", "tell"]

_SHEETS: Final = "63.5x38.1, 70x37, 99.1x38.1 or plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of ``edgefold flash``, by click's names."""

    target: str | None
    base_image: Path | None
    out: Path | None
    device: str | None
    token_file: Path | None
    service: Path | None
    bundles: tuple[Path, ...]
    examples: Path | None
    settings: Path | None
    wifi: Path | None
    ssh_key: Path | None
    time_servers: tuple[str, ...]
    wheelhouse: Path | None
    folder: str | None
    data_mb: int
    work: Path | None
    count: int | None
    first: int
    expires: str
    label_sheet: str
    label_url: str | None
    label_token: bool
    label_skip: int

    def refuse_what_does_not_go_together(self, *, is_ssh: bool) -> None:
        """Check what is there and what is not.

        Raises:
            ConfigError: an option is missing, or is for something else (the user's fault).
        """
        if (self.target is None) == (self.base_image is None):
            raise ConfigError("--target, --base-image: expected one of them; see: edgefold flash --help")
        if (self.token_file is None) == (self.service is None):
            raise ConfigError("--token-file, --service: expected one of them; see: edgefold flash --help")
        missing = [f"--{name}" for name in ("device", *(() if is_ssh else ("out",))) if getattr(self, name) is None]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: missing; see: edgefold flash --help")
        if is_ssh and self.count is not None:
            raise ConfigError("--count: for images; a machine reached by ssh is one device: run this once for each")
        if self.count is None and (self.label_url or self.label_token or self.label_skip):
            raise ConfigError("--label-url, --label-token, --label-skip: for a batch: --count")
        if is_ssh and (self.bundles or self.examples or self.wifi or self.ssh_key):
            raise ConfigError("--bundle, --examples, --wifi, --ssh-key: for images; a machine that runs has its own")
        if self.base_image is not None and (self.wifi or self.ssh_key or self.time_servers):
            raise ConfigError("--wifi, --ssh-key, --time-server: a vendor's system has its own way to be told them")
        if not is_ssh and self.folder is not None:
            raise ConfigError("--folder: for ssh:// alone")


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of batches to a command."""
    options = (
        click.option("--count", type=int, help="A batch of so many images, with a manifest and a sheet of labels."),
        click.option("--first", type=int, default=1, show_default=True, help="The number of the batch's first device."),
        click.option("--expires", default="24h", show_default=True, help="--service: how long tokens hold: 24h, 7d."),
        click.option("--label-sheet", default="63.5x38.1", show_default=True, help=f"Millimetres: {_SHEETS}."),
        click.option("--label-skip", type=int, default=0, help="Labels of the first sheet that are used already."),
        click.option("--label-url", help="The code opens this: https://fleet.example/{device}; plain text without."),
        click.option("--label-token", is_flag=True, help="The code is the token: a secret on paper until it was used."),
    )
    for one in reversed(options):
        command = one(command)
    return command


def tell(what: str) -> None:
    """Print a step to the standard error, but not the hundred small files."""
    if not what.startswith("write "):
        click.echo(f"flash: {what}", err=True)
