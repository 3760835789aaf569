"""The command ``edgefold flash``. Errors leave to the front door."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.flash.options import Options, batch_options, tell
from deploy.flash.write_cli import write

if TYPE_CHECKING:
    from deploy.flash.remote import Probe
    from deploy.flash.wheelhouse import Release

__all__ = ["flash"]

_PATH = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--target", help="What to make: rpi, qemu-virt, or ssh://USER@HOST.")
@click.option(
    "--base-image", type=_PATH, help="Instead of --target: a vendor's .img or .img.xz, to put the agent into."
)
@click.option("--out", type=_PATH, help="The image; .img.xz packs it. With --count: a folder to make.")
@click.option("--device", help="The device's name in the fleet; also its host name.")
@click.option("--token-file", type=_PATH, help="Holds the device's one-time token, or a batch's; - is standard input.")
@click.option("--service", type=_PATH, help="Instead of --token-file: aggregator.toml of the fleet, to make tokens by.")
@click.option("--bundle", "bundles", type=_PATH, multiple=True, help="A bundle to bring along; may be repeated.")
@click.option("--examples", type=_PATH, help="What it learns from at first, .jsonl or .csv.")
@click.option("--settings", type=_PATH, help="More tables of agent.toml: trainer, privacy, ...")
@click.option("--wifi", type=_PATH, help="TOML, mode 0600: ssid, passphrase, country.")
@click.option("--ssh-key", type=_PATH, help="Public keys that may log in as root; nobody may without.")
@click.option("--time-server", "time_servers", multiple=True, help="Instead of Debian's; may be repeated.")
@click.option("--data-mb", type=int, default=512, show_default=True, help="Free space for data; grows on the card.")
@click.option("--wheelhouse", type=_PATH, help="ssh, base image: wheels from here; see: edgefold flash wheelhouse.")
@click.option("--folder", help="ssh: where to install; /opt/edgefold or ~/.local/share/edgefold without.")
@click.option("--work", type=_PATH, help="Where to build; a temporary folder, about 1.5 GB, without.")
@batch_options
@click.pass_context
def flash(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's options, named in Options
    """Put the agent onto a device, with the material that lets it in once.

    \b
    An image for a memory card, without root and without the board:
      edgefold devices token --config fleet/aggregator.toml > token; chmod 600 token
      edgefold flash --target rpi --device kitchen-pi --token-file token --bundle bundle --out kitchen-pi.img.xz
    Many of them, with a sheet of QR labels:
      edgefold flash --target rpi --count 20 --device shop-{:03} --service fleet/aggregator.toml --out shops
    The vendor's own system, with the agent put in:
      edgefold flash --base-image raspios.img.xz --device kitchen-pi --token-file token --out kitchen-pi.img
    A machine that runs already, by your own ssh keys:
      edgefold flash --target ssh://root@jetson.local --device jetson --token-file token
    Boards of rpi: Raspberry Pi 3, 4, 400, CM4, Zero 2 W; not the Pi 5, for which Debian 12 has no device tree.
    """  # noqa: D301 - \b is click's mark for a paragraph kept as it is
    if context.invoked_subcommand is not None:
        return None
    chosen = Options(**options)
    is_ssh = str(chosen.target).startswith("ssh:")
    chosen.refuse_what_does_not_go_together(is_ssh=is_ssh)
    if is_ssh:
        return _install(chosen)
    from deploy.flash.image_cli import make_images  # noqa: PLC0415

    return make_images(chosen)


def _install(options: Options) -> None:
    from deploy.flash.remote import program_text  # noqa: PLC0415
    from deploy.flash.setups import setups_of  # noqa: PLC0415
    from deploy.flash.ssh_install import Remote, install, parse_address  # noqa: PLC0415
    from deploy.flash.wheelhouse import make_release, make_wheelhouse  # noqa: PLC0415

    machine = Remote(parse_address(str(options.target)))
    with tempfile.TemporaryDirectory(prefix="edgefold-flash-", dir=options.work) as name:

        def release_for(probe: Probe) -> Release:
            wheels = options.wheelhouse or Path(name, "wheels")
            if options.wheelhouse is None:
                make_wheelhouse(wheels, platform=probe.platform, python=probe.python)
            return make_release(wheels, Path(name), machine=probe, program=program_text(probe.interpreter))

        done = install(
            machine,
            setups_of(options)[0],
            release_for=release_for,
            folder=options.folder,
            watch=tell,
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
        carry_out(steps, watch=tell)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.0f} MB; next: apt install {path}")


flash.add_command(deb)
flash.add_command(write)
flash.add_command(wheelhouse)
