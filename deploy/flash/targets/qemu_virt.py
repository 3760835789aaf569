"""QEMU's ``virt`` machine: what ``make test-image`` boots, and an image to try things with."""

from __future__ import annotations

from typing import Final

from deploy.flash.target import Target

__all__ = ["TARGET"]

TARGET: Final = Target(
    name="qemu-virt",
    summary="a virtual arm64 machine (qemu-system-aarch64 -M virt)",
    boards=("QEMU virt",),
    packages=("linux-image-cloud-arm64",),
    modules=("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "ext4"),
    command_line="console=ttyAMA0 panic=-1 fsck.repair=yes",
    journal_to_console=True,
)
