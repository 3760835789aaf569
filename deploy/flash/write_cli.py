"""``edgefold flash write``: an image onto a card, with every chance to notice that it is the wrong one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

__all__ = ["write"]


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("device", type=click.Path(path_type=Path))
@click.option("--answer", help='What would be typed, such as "sdb 31.9 GB", where nobody sits at the keyboard.')
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True, help="Another tree, in tests.")
def write(image: Path, device: Path, answer: str | None, *, root: Path) -> None:
    """Write IMAGE (.img or .img.xz) to the card at DEVICE, such as /dev/sdb, and verify it by reading it back.

    Asks for the card's name and size. Refuses partitions, mounted disks, the system's own, swap, and disks in use by
    encryption, LVM or RAID. What is on the card is lost.
    """
    from deploy.flash.block_devices import Machine, find_disk  # noqa: PLC0415 - --help needs none of this
    from deploy.flash.writing import size_text, write_image  # noqa: PLC0415
    from protocol.errors import ConfigError  # noqa: PLC0415

    if not image.is_file():
        raise ConfigError(f"{image}: no such image")
    machine = Machine(sys=root / "sys", proc=root / "proc", dev=root / "dev")
    disk = find_disk(device, machine)
    expected = f"{disk.name} {size_text(disk.size_bytes)}"
    kind = "removable" if disk.is_removable else "NOT removable: is it the right one?"
    click.echo(f"{disk.path}: {disk.model}, {size_text(disk.size_bytes)}, {kind}", err=True)
    if answer is None:
        answer = click.prompt(f'all of it will be lost; to go on type "{expected}"', default="", err=True)
    if answer.strip() != expected:
        raise ConfigError(f'expected "{expected}", got "{answer}"; nothing was written')
    find_disk(device, machine)  # somebody may have mounted it meanwhile
    n_bytes = write_image(image, disk, watch=_Meter(sys.stderr.isatty()).tell)
    click.echo(f"{disk.path}: {n_bytes} bytes written and read back; take the card out")


class _Meter:
    """One line that counts on a terminal; a line for each part elsewhere."""

    def __init__(self, is_terminal: bool) -> None:  # noqa: FBT001 - the one thing that it is about
        self._is_terminal, self._last = is_terminal, ("", -1)

    def tell(self, what: str, done: int) -> None:
        step = done // (100_000_000 if self._is_terminal else 1_000_000_000)
        if (what, step) != self._last:
            self._last = (what, step)
            click.echo(f"\r{what}: {done / 1e6:.0f} MB", nl=not self._is_terminal, err=True)
