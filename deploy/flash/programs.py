"""The programs that building images takes, checked all at once before anything begins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEBIAN_PACKAGES", "find_program", "require_programs", "run_program", "run_program_aloud"]

# Programs and the Debian packages that bring them.
DEBIAN_PACKAGES: Final = {
    "cp": "coreutils",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "e2fsck": "e2fsprogs",
    "genimage": "genimage",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "mosquitto": "mosquitto",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "resize2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "xz": "xz-utils",
}
# Debian keeps some of them where an ordinary user's PATH does not look.
_SAID_CHARS: Final = 600  # of a failed program's last words
_PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin"


def find_program(name: str) -> str | None:
    """Return the program's path, or None."""
    return shutil.which(name) or shutil.which(name, path=_PLACES)


def require_programs(names: Iterable[str]) -> dict[str, str]:
    """Return the paths of ``names``.

    Raises:
        ConfigError: some are missing; the line says what to install (the user's fault).
    """
    found = {name: find_program(name) for name in names}
    missing = sorted({DEBIAN_PACKAGES[name] for name, path in found.items() if path is None})
    if missing:
        lost = ", ".join(sorted(name for name, path in found.items() if path is None))
        raise ConfigError(f"{lost}: not here; run: apt install {' '.join(missing)}")
    return {name: path for name, path in found.items() if path is not None}


def run_program(argv: tuple[str, ...], *, deadline_s: float = 900.0, told: bytes = b"") -> bytes:
    """Return what a program printed, after giving it ``told``.

    Raises:
        EngineError: it failed, or took too long.
    """
    return run_program_aloud(argv, deadline_s=deadline_s, told=told)[0]


def run_program_aloud(
    argv: tuple[str, ...], *, deadline_s: float = 900.0, told: bytes = b"", is_checked: bool = True
) -> tuple[bytes, bytes, int]:
    """Return what a program printed, what it complained of, and its exit code, after giving it ``told``.

    Raises:
        EngineError: it failed and ``is_checked``, or took too long.
    """
    name = Path(argv[0]).name
    try:
        done = subprocess.run(argv, input=told, capture_output=True, check=False, timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name} took more than {deadline_s:.0f} s") from error
    if is_checked and done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise EngineError(f"{name} failed: {said[-_SAID_CHARS:]}")
    return done.stdout, done.stderr, done.returncode
