"""What a kind of machine needs of an image: facts only, so that a new board is a new file of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BASE_PACKAGES", "BootFile", "Target"]

# Debian packages of every image. Their maintainer scripts are not run; what these would do is in ``system_files``.
BASE_PACKAGES: Final = (
    "base-files",
    "base-passwd",
    "busybox-static",
    "coreutils",
    "dash",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "grep",
    "iproute2",
    "kmod",
    "libgomp1",
    "libstdc++6",
    "mount",
    "netbase",
    "procps",
    "python3",
    "sed",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "util-linux",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile:
    """A file that the boot partition takes from the unpacked system.

    Attributes:
        source: a pattern of paths in the system, such as ``boot/vmlinuz-*``.
        name: its name there; the source's own if empty.
    """

    source: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of machine.

    Attributes:
        name: what ``--target`` takes.
        summary: one line for people.
        boards: those that the image is made for.
        not_for: what one might expect and does not get, and why.
        architecture: Debian's name.
        suite: the Debian release.
        python: the release's Python, without its patch level.
        components: of the Debian archive.
        packages: besides ``BASE_PACKAGES``; the kernel is among them.
        modules: what the first stage loads to reach the system partition; dependencies come by themselves.
        drop: patterns of paths that are removed from the system.
        boot_files: what the boot partition takes from the system, besides kernel and initrd.
        boot_texts: small text files of the boot partition.
        command_line: of the kernel.
        watchdog_s: after how many seconds of a stuck system the hardware restarts it; None without such hardware.
        has_wifi: wpa_supplicant and firmware are in ``packages``.
        journal_to_console: print the journal to the console, for whoever watches a virtual machine.
    """

    name: str
    summary: str
    boards: tuple[str, ...]
    not_for: str = ""
    architecture: str = "arm64"
    suite: str = "bookworm"
    python: str = "3.11"
    components: tuple[str, ...] = ("main",)
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    drop: tuple[str, ...] = ()
    boot_files: tuple[BootFile, ...] = ()
    boot_texts: Mapping[str, str] = field(default_factory=dict)
    command_line: str
    watchdog_s: int | None = None
    has_wifi: bool = False
    journal_to_console: bool = False
