"""``edgefold flash`` for images: one or a batch, of our own system or with a vendor's as the base."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deploy.flash import customise, image_plan
from deploy.flash.base_image import size_of_base
from deploy.flash.batch import MadeImage, make_batch
from deploy.flash.labels import label_text, sheet_html, sheet_named
from deploy.flash.options import tell
from deploy.flash.programs import require_programs
from deploy.flash.remote import program_text
from deploy.flash.setups import setups_of
from deploy.flash.sparse_files import require_room
from deploy.flash.targets import target_named
from deploy.flash.wheelhouse import make_release, make_wheelhouse
from deploy.flash.workshop import carry_out
from host.durable import write_bytes
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.flash.base_image import BaseSystem
    from deploy.flash.options import Options
    from deploy.flash.settings import DeviceSetup
    from deploy.flash.steps import Step
    from deploy.flash.wheelhouse import Release

    Identity = Callable[[DeviceSetup, Path], Sequence[Step]]

__all__ = ["make_images"]

_OWN_IMAGE_BYTES: Final = 350 << 20  # what an image takes on disk, holes aside; the exact figure comes before copying
_SECRET: Final = "keep it as you would a password"  # noqa: S105 - a warning


def make_images(options: Options) -> None:
    """Make what the options ask for, and say what to do next.

    Raises:
        ConfigError: something is missing or wrong (the user's fault).
        EngineError, StorageError: a program failed.
    """
    out, programs = Path(options.out or ".").resolve(), _programs(options)
    if options.count is not None:
        _begin_batch(options, out, options.count)
    setups = setups_of(options)
    _labels(options, setups, [_rehearsed(one) for one in setups])
    work = Path(tempfile.mkdtemp(prefix="edgefold-flash-", dir=options.work))
    try:
        master, identity, what = _master(options, setups[0], work, programs)
        if options.count is None:
            carry_out(identity(setups[0], master), watch=tell)
            carry_out(image_plan.finish_steps(master, out=out, programs=programs), watch=tell)
            _say_one(out, setups[0], what)
            return

        def finish(folder: Path, made: Sequence[MadeImage]) -> None:
            page = _labels(options, setups, made).encode()
            write_bytes(folder / "labels.html", page, mode=0o600 if options.label_token else 0o644)

        made = make_batch(master, setups, out=out, identity=identity, finish=finish, watch=tell)
        _say_batch(out, made, what, has_tokens=options.label_token)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _begin_batch(options: Options, out: Path, count: int) -> None:
    """Refuse what would fail after the work, and say how much disk it takes."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; a batch makes a folder of its own")
    each = _OWN_IMAGE_BYTES if options.base_image is None else size_of_base(options.base_image)
    click.echo(f"flash: {count} images take at least {count * each / 1e9:.1f} GB", err=True)
    require_room(out, count * each, f"a batch of {count}")


def _labels(options: Options, setups: Sequence[DeviceSetup], made: Sequence[MadeImage]) -> str:
    tokens = [one.token if options.label_token else None for one in setups]
    texts = [label_text(one, url=options.label_url, token=token) for one, token in zip(made, tokens, strict=True)]
    return sheet_html(texts, sheet_named(options.label_sheet), skip=options.label_skip)


def _rehearsed(setup: DeviceSetup) -> MadeImage:
    """Return an image that is not made yet, so that labels which cannot be made are known before it is."""
    return MadeImage(device=setup.device, fleet=setup.fleet, image="", n_bytes=0, sha256="0" * 64, token_id="")


def _programs(options: Options) -> dict[str, str]:
    if options.base_image is not None:
        return require_programs(customise.PROGRAMS)
    target_named(str(options.target))
    return require_programs((*image_plan.PROGRAMS, "cp"))


def _master(options: Options, setup: DeviceSetup, work: Path, programs: dict[str, str]) -> tuple[Path, Identity, str]:
    """Return an image of no device, how a copy of it becomes one device's, and for what it is."""
    if options.base_image is None:
        target = target_named(str(options.target))
        carry_out(image_plan.master_steps(target, setup, work=work, programs=programs), watch=tell)
        return image_plan.master_path(work), image_plan.identity_steps, target.summary

    def release_for(system: BaseSystem) -> Release:
        wheels = options.wheelhouse or work / "wheels"
        if options.wheelhouse is None:
            tell("fetch wheels for the device")
            make_wheelhouse(wheels, platform=system.platform, python=system.python)
        return make_release(wheels, work, machine=system, program=program_text(system.interpreter))

    made = customise.make_vendor_master(options.base_image, setup, work=work, release_for=release_for, watch=tell)
    grown = f", its system grown by {made.grown_bytes / 1e6:.0f} MB" if made.grown_bytes else ""
    return made.image, made.identity, f"{made.system.name}{grown}"


def _say_one(out: Path, setup: DeviceSetup, what: str) -> None:
    click.echo(f"{out}: {out.stat().st_size / 1e6:.0f} MB, {setup.fleet}/{setup.device}, for {what}")
    click.echo(f"it holds an unused token: {_SECRET}. next: edgefold flash write {out} /dev/sdX")


def _say_batch(out: Path, made: Sequence[MadeImage], what: str, *, has_tokens: bool) -> None:
    used = sum((out / one.image).stat().st_blocks * 512 for one in made)
    click.echo(f"{out}: {len(made)} images, {used / 1e9:.1f} GB on disk, fleet {made[0].fleet}, for {what}")
    click.echo(f"each holds an unused token: {_SECRET}. next: edgefold flash write {out / made[0].image} /dev/sdX")
    click.echo(f"print {out / 'labels.html'} from a browser: A4, 100 %, no margins; stick each label onto its card")
    if has_tokens:
        click.echo(
            "the labels hold the tokens too: who photographs one before its device's first boot can take its place"
        )
