"""``edgefold authority``: the keys that a fleet's certificates are signed with."""

from __future__ import annotations

from pathlib import Path

import click

from aggregator.cli import CONFIG_OPTION, JSON_OPTION

__all__ = ["authority"]


@click.group()
def authority() -> None:
    """Look after the keys that the fleet's certificates are signed with. Works beside a running service."""


@authority.command()
@CONFIG_OPTION
@JSON_OPTION
def show(config_path: Path, *, as_json: bool) -> None:
    """Show until when the root and the issuing certificates hold."""
    from aggregator import authority_desk  # noqa: PLC0415 - a command loads what it uses

    authority_desk.show(config_path, as_json=as_json)


@authority.command()
@CONFIG_OPTION
@click.option(
    "--root-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where root.key is now; it is read once.  [default: in the authority's folder]",
)
@click.option("--stolen", is_flag=True, help="Distrust the present key at once; every device must enrol again.")
def renew(config_path: Path, *, root_key: Path | None, stolen: bool) -> None:
    """Put a new issuing key into use, signed by the root.

    Certificates by the present key hold until they end, and devices get their next one by the new key. With --stolen
    they are refused as soon as the brokers are started again: stop the service, start it, and give out new tokens;
    devices keep their names and keys.
    """
    from aggregator import authority_desk  # noqa: PLC0415

    authority_desk.renew(config_path, root_key=root_key, is_stolen=stolen)
    click.echo("a new issuing key is in use; a running service and its brokers take it up within seconds")
    click.echo("brokers elsewhere: copy ca.pem, server.pem, server.key and crl.pem to them and have them read again")
    if stolen:
        click.echo("now stop the service and start it again, and let every device enrol with a new token")
