"""Raspberry Pi 3, 4 and Zero 2 W, 64 bit.

Debian bookworm's kernel 6.1 has no device tree for the Pi 5. The firmware reads config.txt, loads kernel and initrd
from the first partition, and with ``upstream_kernel=1`` looks for device trees under the names of the mainline
kernel. Sources: raspi-firmware of Debian; config.txt as documented by Raspberry Pi.
"""

from __future__ import annotations

from typing import Final

from deploy.flash.target import BootFile, Target

__all__ = ["TARGET"]

_CONFIG: Final = """\
# Read by the board's firmware before anything else.
arm_64bit=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.img followkernel
disable_splash=1
gpu_mem=16
"""
_COMMAND_LINE: Final = "console=tty0 console=ttyS1,115200 panic=10 fsck.repair=yes"

TARGET: Final = Target(
    name="rpi",
    summary="Raspberry Pi 3, 4, 400, CM4 and Zero 2 W",
    boards=("Raspberry Pi 3 A+, B, B+", "Raspberry Pi 4 B, 400, CM4", "Raspberry Pi Zero 2 W"),
    not_for="Raspberry Pi 5: Debian bookworm's kernel 6.1 has no device tree for it; install on its own system by ssh",
    components=("main", "non-free-firmware"),
    packages=("linux-image-arm64", "raspi-firmware", "firmware-brcm80211", "wireless-regdb", "wpasupplicant"),
    # The SD card's controllers of Pi 3 and Zero 2 W (bcm2835, sdhci-iproc) and Pi 4 (sdhci-iproc behind the firmware's
    # GPIO expander); virtio, so that the very same image starts in QEMU.
    modules=(
        "sdhci-iproc",
        "bcm2835",
        "mmc_block",
        "gpio-raspberrypi-exp",
        "gpio-regulator",
        "ext4",
        "crc32c_generic",
        "virtio_pci",
        "virtio_blk",
        "virtio_net",
        "bcm2835_wdt",
    ),
    # Drivers of what no headless Pi has.
    drop=tuple(
        f"usr/lib/modules/*/kernel/{name}"
        for name in ("sound", *(f"drivers/{one}" for one in ("gpu", "media", "infiniband", "isdn", "staging", "scsi")))
    ),
    boot_files=(
        BootFile(source="usr/lib/raspi-firmware/*"),
        BootFile(source="usr/lib/linux-image-*/broadcom/bcm27*-rpi-4*.dtb"),
        BootFile(source="usr/lib/linux-image-*/broadcom/bcm27*-rpi-cm4*.dtb"),
        BootFile(source="usr/lib/linux-image-*/broadcom/bcm28*-rpi-*.dtb"),
    ),
    boot_texts={"config.txt": _CONFIG, "cmdline.txt": f"{_COMMAND_LINE}\n"},
    command_line=_COMMAND_LINE,
    watchdog_s=14,  # bcm2835_wdt counts to 15 s
    has_wifi=True,
)
