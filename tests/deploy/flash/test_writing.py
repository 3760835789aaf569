"""Writing to a card: a plain file stands in for the disk, and a tree of files for /sys and /proc."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.flash.block_devices import Machine, find_disk
from deploy.flash.writing import write_image
from protocol.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

SECTORS = 8192
IMAGE = os.urandom(3 << 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with the disk sda, which it runs on, and the card sdb with one partition."""
    for name, number in (("sda", "8:0"), ("sdb", "8:16")):
        disk = tmp_path / "sys/devices" / name
        for folder, dev in ((disk, number), (disk / f"{name}1", number[:-1] + str(int(number[-1]) + 1))):
            (folder / "holders").mkdir(parents=True)
            (folder / "dev").write_text(dev + "\n")
            (folder / "size").write_text(f"{SECTORS}\n")
            (folder / "ro").write_text("0\n")
        (disk / f"{name}1/partition").write_text("1\n")
        (disk / "removable").write_text("1\n" if name == "sdb" else "0\n")
        (disk / "device").mkdir()
        (disk / "device/model").write_text("Card Reader\n")
        (tmp_path / "sys/class/block").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"sys/class/block/{name}").symlink_to(disk)
        (tmp_path / f"sys/class/block/{name}1").symlink_to(disk / f"{name}1")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n")
    (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sdb").write_bytes(bytes(SECTORS * 512))
    (tmp_path / "dev/sda").write_bytes(bytes(SECTORS * 512))
    return tmp_path


def machine(root: Path) -> Machine:
    return Machine(sys=root / "sys", proc=root / "proc", dev=root / "dev")


def refusal(root: Path, name: str) -> str:
    with pytest.raises(ConfigError) as raised:
        find_disk(root / "dev" / name, machine(root))
    return str(raised.value)


def test_a_free_card_is_found_with_its_size_and_model(root: Path) -> None:
    disk = find_disk(root / "dev/sdb", machine(root))
    assert (disk.name, disk.size_bytes, disk.model, disk.is_removable) == ("sdb", SECTORS * 512, "Card Reader", True)


def test_the_systems_own_disk_is_refused(root: Path) -> None:
    assert "sda1 is mounted at /: this system's own disk" in refusal(root, "sda")


@pytest.mark.parametrize("number", ["8:16", "8:17"])
def test_a_mounted_disk_or_partition_is_refused(root: Path, number: str) -> None:
    line = f"30 25 {number} / /media/my\\040card rw - vfat /dev/sdb1 rw\n"
    with (root / "proc/self/mountinfo").open("a") as file:
        file.write(line)
    assert "is mounted at /media/my card; umount it" in refusal(root, "sdb")


def test_swap_encryption_and_raid_are_refused(root: Path) -> None:
    (root / "sys/devices/sdb/sdb1/holders/dm-0").mkdir()
    assert "sdb1 is used by dm-0" in refusal(root, "sdb")
    (root / "proc/swaps").write_text("Filename Type\n/dev/sdb1 partition 100 0 -2\n")
    assert "sdb1 is used as swap" in refusal(root, "sdb")


def test_partitions_missing_empty_and_protected_disks_are_refused(root: Path) -> None:
    assert "name the whole disk" in refusal(root, "sdb1")
    assert "no block device" in refusal(root, "sdz")
    (root / "sys/devices/sdb/ro").write_text("1\n")
    assert "write-protected" in refusal(root, "sdb")
    (root / "sys/devices/sdb/size").write_text("0\n")
    assert "no card" in refusal(root, "sdb")


@pytest.mark.parametrize("name", ["a.img", "a.img.xz"])
def test_an_image_is_written_and_read_back(root: Path, name: str) -> None:
    image = root / name
    image.write_bytes(lzma.compress(IMAGE) if name.endswith(".xz") else IMAGE)
    seen: list[str] = []
    disk = find_disk(root / "dev/sdb", machine(root))
    assert write_image(image, disk, watch=lambda what, _: seen.append(what)) == len(IMAGE)
    assert (root / "dev/sdb").read_bytes()[: len(IMAGE)] == IMAGE
    assert set(seen) == {"write", "verify"}


def test_a_card_that_gives_back_other_bytes_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.img").write_bytes(IMAGE)
    read = os.read

    def spoilt(fd: int, n: int) -> bytes:
        data = read(fd, n)
        return bytes([data[0] ^ 1]) + data[1:]

    monkeypatch.setattr("deploy.flash.writing.os.read", spoilt)
    with pytest.raises(StorageError, match="gives back other bytes"):
        write_image(root / "a.img", find_disk(root / "dev/sdb", machine(root)))


def test_too_large_and_broken_images_are_refused(root: Path) -> None:
    disk = find_disk(root / "dev/sdb", machine(root))
    (root / "large.img").write_bytes(bytes(SECTORS * 512 + 1))
    with pytest.raises(ConfigError, match="larger than sdb"):
        write_image(root / "large.img", disk)
    (root / "half.img.xz").write_bytes(lzma.compress(IMAGE)[:1000])
    with pytest.raises(ConfigError, match=r"not a whole \.xz"):
        write_image(root / "half.img.xz", disk)
    with pytest.raises(ConfigError, match="no such image"):
        write_image(root / "nothing.img", disk)


def test_the_command_writes_only_after_name_and_size_were_typed(root: Path) -> None:
    (root / "a.img").write_bytes(IMAGE)
    command = [sys.executable, "-m", "edgefold", "flash", "write", str(root / "a.img"), str(root / "dev/sdb")]
    command += ["--root", str(root)]
    for typed, code in (("sdb\n", 2), ("", 1), ("sdb 0.0 GB\n", 0)):
        done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        assert (root / "dev/sdb").read_bytes().startswith(IMAGE) == (code == 0)
    assert f"{len(IMAGE)} bytes written and read back" in done.stdout
