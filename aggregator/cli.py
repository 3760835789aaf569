"""The aggregator's commands: ``serve``, ``broker`` and ``devices``; ``task`` is in ``task_cli``. Errors leave here."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["CONFIG_OPTION", "JSON_OPTION", "broker", "devices", "serve", "strategies"]

CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's settings, aggregator.toml; docs/aggregator.md explains each.",
)
INSECURE_OPTION = click.option(
    "--insecure-loopback",
    is_flag=True,
    help="As broker.insecure_loopback = true: a broker without certificates, for this machine alone.",
)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_YEAR_S = 365 * 86_400
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


class _Expiry(click.ParamType[float]):
    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        value_s = float(text[:-1]) * _UNITS_S.get(text[-1], 0) if text[:-1].isdecimal() else 0.0
        if not 0 < value_s <= _YEAR_S:
            self.fail(f"{text}: expected a number and s, m, h or d, such as 24h, and at most a year", param, ctx)
        return value_s


@click.group(invoke_without_command=True)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's settings, aggregator.toml; docs/aggregator.md explains each.",
)
@click.option("--exit-when-done", is_flag=True, help="Exit with 0 once every task is finished and evaluated.")
@INSECURE_OPTION
@click.pass_context
def serve(ctx: click.Context, config_path: Path | None, *, exit_when_done: bool, insecure_loopback: bool) -> None:
    """Run the aggregator: open tasks, run rounds, fold updates. `serve init` makes a new fleet first.

    Starts and watches a broker too, unless the settings name one by URL. Everything durable is under service.folder:
    kill it at any moment and start it again.
    """
    if ctx.invoked_subcommand is not None:
        return
    if config_path is None:
        raise click.UsageError("Missing option '--config'.")
    from aggregator.config import load_config  # noqa: PLC0415 - a command loads what it uses
    from aggregator.serve import run_service  # noqa: PLC0415

    config = load_config(config_path, insecure_loopback=insecure_loopback)
    run_service(config, config_path, exit_when_done=exit_when_done)


@serve.command()
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Where to make the fleet.")
@click.option("--fleet", required=True, help="The fleet's name, part of every topic and signature.")
@click.option("--host", required=True, help="The name or address by which devices reach the broker.")
@click.option("--port", default=8883, show_default=True, help="For devices with a certificate.")
@click.option("--claim-port", default=8884, show_default=True, help="For devices that enrol.")
@click.option("--claim-service-port", default=8885, show_default=True, help="For the service's way to their claims.")
@click.option("--bundle-port", default=8886, show_default=True, help="Where devices fetch bundles, by HTTPS.")
def init(folder: Path, **values: object) -> None:
    """Make a fleet: certificate authority, keys, the broker's certificate and aggregator.toml."""
    from aggregator.init import check_plan, init_fleet  # noqa: PLC0415

    settings = init_fleet(folder, check_plan(values))
    click.echo(f"wrote {settings}")
    click.echo(f"move {folder / 'authority' / 'root.key'} to a place that no network reaches")
    click.echo(f"then: edgefold serve --config {settings}")
    click.echo(f"and:  edgefold devices token --count 1 --expires 24h --config {settings}")


@serve.command()
@CONFIG_OPTION
@click.option("--name", required=True, help="Which worker this is: one of ingest.external, or local-1 and so on.")
@click.option("--broker", "broker_url", metavar="URL", help="Where the broker is, if not where the settings say.")
def ingest(config_path: Path, *, name: str, broker_url: str | None) -> None:
    """Take updates in beside the service: check, open and store them, so that the service only has to decide.

    Each update goes to one of the workers, by an MQTT shared subscription. [ingest] says how many there are: the
    service starts its own `workers`, this command is for those that `external` names. It needs the service's settings,
    its database (PostgreSQL), its blobs, and the tasks' bundles and keys; docs/scale.md has the steps. Kill it at any
    moment and start it again under the same name.
    """
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.ingest_serve import run_ingest  # noqa: PLC0415

    run_ingest(load_config(config_path), name=name, broker_url=broker_url)


@serve.command()
@CONFIG_OPTION
@JSON_OPTION
def workers(config_path: Path, *, as_json: bool) -> None:
    """Show the ingest workers that the settings name, when each was last seen, and what waits for the service."""
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.ingest_desk import print_workers  # noqa: PLC0415

    print_workers(load_config(config_path), as_json=as_json)


@serve.command("token")
@CONFIG_OPTION
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), required=True, help="What it allows.")
@click.option("--name", help="What to call it in lists and logs; by default the role and a number.")
@click.option("--expires", type=_Expiry(), default="90d", show_default=True, help="After how long: 30m, 24h, 90d.")
@JSON_OPTION
def http_token(config_path: Path, *, role: str, name: str | None, expires: float, as_json: bool) -> None:
    """Print a token for the page, the interface and the metrics ([http]). It is shown now and never again.

    A viewer sees everything, an operator also steers tasks and devices, an admin also creates tasks and tokens for
    devices.
    """
    from aggregator import access_desk  # noqa: PLC0415

    with access_desk.opened(config_path) as desk:
        desk.give(role, name=name, expires_s=expires, as_json=as_json)


@serve.command("tokens")
@CONFIG_OPTION
@click.option("--revoke", metavar="NAME", help="Take a token back: it is refused from the next request on.")
@JSON_OPTION
def http_tokens(config_path: Path, *, revoke: str | None, as_json: bool) -> None:
    """List the tokens of the page and the interface, or take one back."""
    from aggregator import access_desk  # noqa: PLC0415

    with access_desk.opened(config_path) as desk:
        if revoke is not None:
            desk.revoke(revoke)
        desk.print_tokens(as_json=as_json)


@serve.command()
@CONFIG_OPTION
@click.option("--dry-run", is_flag=True, help="Only show; works beside a running service.")
@JSON_OPTION
def gc(config_path: Path, *, dry_run: bool, as_json: bool) -> None:
    """Show what is stored and take out what [service.retention] no longer keeps, and blobs that nothing names.

    A running service does this by itself, a little after every round and the rest at its start; docs/storage.md.
    """
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.storage_desk import print_gc  # noqa: PLC0415

    print_gc(load_config(config_path), is_dry=dry_run, as_json=as_json)


@click.command()
@CONFIG_OPTION
@INSECURE_OPTION
def broker(config_path: Path, *, insecure_loopback: bool) -> None:
    """Run only the MQTT broker of the settings' [broker] table, apart from the aggregator."""
    from aggregator.config import load_config  # noqa: PLC0415
    from aggregator.serve import run_broker  # noqa: PLC0415

    run_broker(load_config(config_path, insecure_loopback=insecure_loopback))


@click.command()
@JSON_OPTION
def strategies(*, as_json: bool) -> None:
    """List the fold strategies: what each needs of devices and bundle, and what it goes together with.

    A task chooses one by `strategy = "NAME"`; options go into [task.strategy_options]. docs/strategies.md has more.
    """
    from aggregator.strategy_list import print_strategies  # noqa: PLC0415

    print_strategies(as_json=as_json)


@click.group()
def devices() -> None:
    """Let devices in and shut them out. Works beside a running service."""


@devices.command()
@CONFIG_OPTION
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many.")
@click.option("--expires", type=_Expiry(), default="24h", show_default=True, help="After how long: 90s, 30m, 24h, 7d.")
@JSON_OPTION
def token(config_path: Path, *, count: int, expires: float, as_json: bool) -> None:
    """Print tokens, each of which lets in one device once. They are shown now and never again."""
    from aggregator import device_desk  # noqa: PLC0415

    with device_desk.opened(config_path) as desk:
        desk.give_tokens(count, expires_s=expires, as_json=as_json)


@devices.command("list")
@CONFIG_OPTION
@JSON_OPTION
def list_devices(config_path: Path, *, as_json: bool) -> None:
    """List the devices: status, and until when their certificates hold."""
    from aggregator import device_desk  # noqa: PLC0415

    with device_desk.opened(config_path) as desk:
        desk.print_devices(as_json=as_json)


@devices.command("show")
@click.argument("device", metavar="DEVICE")
@CONFIG_OPTION
@JSON_OPTION
def show_device(device: str, config_path: Path, *, as_json: bool) -> None:
    """Show one device: key, certificate, status."""
    from aggregator import device_desk  # noqa: PLC0415

    with device_desk.opened(config_path) as desk:
        desk.print_device(device, as_json=as_json)


@devices.command()
@click.argument("device", metavar="DEVICE")
@CONFIG_OPTION
def approve(device: str, config_path: Path) -> None:
    """Let in a device that waits, where devices.approve = "manual"."""
    from aggregator import device_desk  # noqa: PLC0415

    with device_desk.opened(config_path) as desk:
        desk.approve(device)
    click.echo(f"{device}: approved")


@devices.command()
@click.argument("device", metavar="DEVICE")
@CONFIG_OPTION
def revoke(device: str, config_path: Path) -> None:
    """Shut a device out, for good: its messages, its certificate and its live connection."""
    from aggregator import device_desk  # noqa: PLC0415

    with device_desk.opened(config_path) as desk:
        desk.revoke(device)
    click.echo(f"{device}: revoked; its messages are refused from now on, a running service ends its connection")
