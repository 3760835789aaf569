"""How an image is divided: FAT for the board's firmware, the read-only system, and the data last, so that it can grow.

A table of the DOS kind: the firmware of a Pi 3 reads no other.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BOOT_BYTES",
    "BOOT_IMAGE",
    "DATA_IMAGE",
    "DATA_NUMBER",
    "IMAGE",
    "SYSTEM_IMAGE",
    "SYSTEM_NUMBER",
    "genimage_config",
]

BOOT_IMAGE: Final = "boot.vfat"
SYSTEM_IMAGE: Final = "system.ext4"
DATA_IMAGE: Final = "data.ext4"
IMAGE: Final = "disk.img"
SYSTEM_NUMBER: Final = 2  # of the partition
DATA_NUMBER: Final = 3
BOOT_BYTES: Final = 128 << 20  # kernel and initrd take 45 MB, the firmware 20 MB; room for a second pair
_FAT32_LBA: Final = "0xC"
_LINUX: Final = "0x83"


def genimage_config() -> str:
    """Return genimage's configuration: three finished file systems after one MiB each aligned to one."""
    parts: tuple[tuple[str, str, str, bool], ...] = (
        ("boot", BOOT_IMAGE, _FAT32_LBA, True),
        ("system", SYSTEM_IMAGE, _LINUX, False),
    )
    parts = (*parts, ("data", DATA_IMAGE, _LINUX, False))
    blocks = "".join(
        f"  partition {name} {{\n    image = {image}\n    partition-type = {kind}\n"
        f"    bootable = {str(is_bootable).lower()}\n  }}\n"
        for name, image, kind, is_bootable in parts
    )
    return f"image {IMAGE} {{\n  hdimage {{\n    align = 1M\n    partition-table-type = mbr\n  }}\n{blocks}}}\n"
