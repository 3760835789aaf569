"""``edgefold backup`` and ``edgefold restore``. Errors leave to the front door."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from aggregator.cli import CONFIG_OPTION, JSON_OPTION

__all__ = ["backup", "restore"]


@click.command()
@CONFIG_OPTION
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="A new file.")
@click.option("--with-keys", is_flag=True, help="Also the keys: who has the file can then be the service.")
@JSON_OPTION
def backup(config_path: Path, out: Path, *, with_keys: bool, as_json: bool) -> None:
    """Write the whole state of a service to one file, while it runs; docs/storage.md says what is in it.

    Not in it: bundles, the settings, the authority's root key and, without --with-keys, any key.
    """
    from aggregator.backup import back_up  # noqa: PLC0415 - a command loads what it uses
    from aggregator.config import load_config  # noqa: PLC0415
    from protocol.fields import plain  # noqa: PLC0415

    made = back_up(load_config(config_path), out, with_keys=with_keys)
    if as_json:
        click.echo(json.dumps({"file": str(out), **plain(made)}))
        return
    click.echo(f"{out}: {made.n_tables} tables, {made.n_blobs} blobs, {made.n_bytes} bytes")
    if with_keys:
        click.echo("warning: with the keys in it, whoever reads it can open updates and be the service", err=True)
    else:
        click.echo("keys are not in it: keep service.key and the authority's folder elsewhere")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@CONFIG_OPTION
@click.option(
    "--spent-rounds",
    type=click.IntRange(0, 10**5),
    help="With a privacy budget whose second record is lost: the most rounds that were folded since the backup.",
)
@click.option("--stop-private", is_flag=True, help="... or stop such tasks for good; their versions stay.")
@JSON_OPTION
def restore(file: Path, config_path: Path, *, spent_rounds: int | None, stop_private: bool, as_json: bool) -> None:
    """Make a service again from FILE, where the settings say; nothing that is there is replaced.

    Rounds and versions go on with numbers above all that devices can have heard; a round that was under way when the
    backup was made is given up. Unused tokens and tokens of the HTTP interface have ended. docs/storage.md has more.
    """
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.restore import restore as restore_  # noqa: PLC0415
    from aggregator.restored_privacy import PrivacyWord  # noqa: PLC0415
    from protocol.fields import plain  # noqa: PLC0415

    word = PrivacyWord(spent_rounds=spent_rounds, stop=stop_private)
    done = restore_(load_config(config_path), file, word=word)
    if as_json:
        click.echo(json.dumps(plain(done)))
        return
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(done.created_unix_s))
    click.echo(f"restored what was backed up at {made}: {len(done.tasks)} tasks, {done.n_blobs} blobs")
    for one in done.tasks:
        state = "stopped: what it spent since is not known" if one.is_stopped else f"goes on after round {one.round}"
        click.echo(f"task {one.task}: version {one.version} is version {one.origin} again; {state}")
    for warning in done.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"devices that were revoked or enrolled after {made}: revoke again, or enrol again")
    click.echo(f"then: edgefold serve --config {config_path}")
