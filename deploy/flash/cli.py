"""The command ``edgefold flash``. Errors leave to the front door."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.flash.write_cli import write

if TYPE_CHECKING:
    from deploy.flash.remote import Probe
    from deploy.flash.wheelhouse import Release

__all__ = ["flash"]

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    target: str
    out: Path
    device: str
    token_file: Path
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


@click.group(invoke_without_command=True)
@click.option("--target", help="What to make: rpi, qemu-virt, or ssh://USER@HOST.")
@click.option("--out", type=_PATH, help="The image; .img.xz packs it.")
@click.option("--device", help="The device's name in the fleet; also its host name.")
@click.option("--token-file", type=_PATH, help="Holds the device's one-time token; - reads standard input.")
@click.option("--bundle", "bundles", type=_PATH, multiple=True, help="A bundle to bring along; may be repeated.")
@click.option("--examples", type=_PATH, help="What it learns from at first, .jsonl or .csv.")
@click.option("--settings", type=_PATH, help="More tables of agent.toml: trainer, privacy, ...")
@click.option("--wifi", type=_PATH, help="TOML, mode 0600: ssid, passphrase, country.")
@click.option("--ssh-key", type=_PATH, help="Public keys that may log in as root; nobody may without.")
@click.option("--time-server", "time_servers", multiple=True, help="Instead of Debian's; may be repeated.")
@click.option("--data-mb", type=int, default=512, show_default=True, help="Free space for data; grows on the card.")
@click.option("--wheelhouse", type=_PATH, help="ssh: wheels from here, and no index; see: edgefold flash wheelhouse.")
@click.option("--folder", help="ssh: where to install; /opt/edgefold or ~/.local/share/edgefold without.")
@click.option("--work", type=_PATH, help="Where to build; a temporary folder, about 1.5 GB, without.")
@click.pass_context
def flash(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's options, named in _Options
    """Put the agent onto a device, with the material that lets it in once.

    \b
    An image for a memory card, without root and without the board:
      edgefold devices token --config fleet/aggregator.toml > token; chmod 600 token
      edgefold flash --target rpi --device kitchen-pi --token-file token --bundle bundle --out kitchen-pi.img.xz
    A machine that runs already, by your own ssh keys:
      edgefold flash --target ssh://root@jetson.local --device jetson --token-file token
    Boards of rpi: Raspberry Pi 3, 4, 400, CM4, Zero 2 W; not the Pi 5, for which Debian 12 has no device tree.
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is
    if context.invoked_subcommand is not None:
        return
    from protocol.errors import ConfigError  # noqa: PLC0415

    is_ssh = str(options["target"]).startswith("ssh:")
    needed = {"target", "device", "token_file"} | (set() if is_ssh else {"out"})
    missing = [f"--{name.replace('_', '-')}" for name in sorted(needed) if options[name] is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: missing; see: edgefold flash --help")
    (_install if is_ssh else _make_image)(_Options(**options))


def _make_image(options: _Options) -> None:
    from deploy.flash.image_plan import PROGRAMS, image_steps  # noqa: PLC0415 - --help needs none of this
    from deploy.flash.programs import require_programs  # noqa: PLC0415
    from deploy.flash.targets import target_named  # noqa: PLC0415
    from deploy.flash.workshop import carry_out  # noqa: PLC0415

    target, programs = target_named(options.target), require_programs(PROGRAMS)
    setup = _setup(options)
    work = Path(tempfile.mkdtemp(prefix="edgefold-flash-", dir=options.work))
    try:
        steps = image_steps(target, setup, work=work, out=options.out.resolve(), programs=programs)
        carry_out(
            steps, watch=lambda what: None if what.startswith("write ") else click.echo(f"flash: {what}", err=True)
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    click.echo(
        f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB, {setup.fleet}/{setup.device}, for {target.summary}"
    )
    click.echo(
        f"it holds an unused token: keep it as you would a password. next: edgefold flash write {options.out} /dev/sdX"
    )


def _tell(what: str) -> None:
    if not what.startswith("write "):  # a hundred small files
        click.echo(f"flash: {what}", err=True)


def _install(options: _Options) -> None:
    from deploy.flash.remote import program_text  # noqa: PLC0415
    from deploy.flash.ssh_install import Remote, install, parse_address  # noqa: PLC0415
    from deploy.flash.wheelhouse import make_release, make_wheelhouse  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    if options.bundles or options.examples or options.wifi or options.ssh_key:
        raise ConfigError("--bundle, --examples, --wifi, --ssh-key: for images; a machine that runs has its own")
    machine = Remote(parse_address(options.target))
    with tempfile.TemporaryDirectory(prefix="edgefold-flash-", dir=options.work) as name:

        def release_for(probe: Probe) -> Release:
            wheels = options.wheelhouse or Path(name, "wheels")
            if options.wheelhouse is None:
                make_wheelhouse(wheels, platform=probe.platform, python=probe.python)
            return make_release(wheels, Path(name), probe=probe, program=program_text(probe.interpreter))

        done = install(
            machine,
            _setup(options),
            release_for=release_for,
            folder=options.folder,
            watch=_tell,
        )
    for hop, state, what in done.findings:
        click.echo(f"{state:<8} {hop:<13} {what}")
    click.echo(f"{options.target}: release {done.release} runs as a {done.place.kind} service in {done.place.root}")


@click.command()
@click.option("--platform", required=True, help="linux-aarch64 or linux-x86_64.")
@click.option("--python", default="3.11", show_default=True, help="The device's Python: 3.11, 3.12 or 3.13.")
@click.option("--out", type=_PATH, required=True, help="An empty folder.")
def wheelhouse(platform: str, python: str, out: Path) -> None:
    """Fetch the wheels that a device needs, for installing without a network."""
    from deploy.flash.wheelhouse import make_wheelhouse  # noqa: PLC0415

    made = make_wheelhouse(out, platform=platform, python=python)
    size = sum((out / name).stat().st_size for name in made.wheels)
    click.echo(f"{out}: {len(made.wheels)} wheels, {size / 1e6:.0f} MB, for {platform} and Python {python}")


def _setup(options: _Options) -> Any:  # noqa: ANN401 - a DeviceSetup, whose module --help does not need
    from deploy.flash.settings import load_agent_tables, load_ssh_keys, load_wifi, make_setup, read_token  # noqa: PLC0415

    return make_setup(
        device=options.device,
        token=sys.stdin.readline() if str(options.token_file) == "-" else read_token(options.token_file),
        data_mb=options.data_mb,
        tables={} if options.settings is None else load_agent_tables(options.settings),
        bundles=options.bundles,
        examples=options.examples,
        wifi=None if options.wifi is None else load_wifi(options.wifi),
        ssh_keys="" if options.ssh_key is None else load_ssh_keys(options.ssh_key),
        time_servers=options.time_servers,
    )


@click.command()
@click.option("--arch", type=click.Choice(["arm64", "amd64"]), required=True, help="Debian's name of the architecture.")
@click.option("--python", default="3.11", show_default=True, help="The machines' Python: 3.11 is Debian 12's.")
@click.option("--out", type=_PATH, default=Path(), help="A folder; the present one without.")
def deb(arch: str, python: str, out: Path) -> None:
    """Make a Debian package of the agent with all that it needs."""
    from importlib.metadata import version  # noqa: PLC0415 - --help needs none of this

    from deploy.flash.deb import PROGRAMS, deb_steps  # noqa: PLC0415
    from deploy.flash.programs import require_programs  # noqa: PLC0415
    from deploy.flash.workshop import carry_out  # noqa: PLC0415
    from host.durable import make_folder  # noqa: PLC0415

    programs, number = require_programs(PROGRAMS), version("edgefold")
    path = make_folder(out.resolve()) / f"edgefold-agent_{number}_{arch}.deb"
    with tempfile.TemporaryDirectory(prefix="edgefold-deb-") as name:
        steps = deb_steps(arch, python, version=number, work=Path(name), out=path, programs=programs)
        carry_out(steps, watch=_tell)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.0f} MB; next: apt install {path}")


flash.add_command(deb)
flash.add_command(write)
flash.add_command(wheelhouse)
