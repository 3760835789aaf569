from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.flash.initrd import cpio_archive, initrd_bytes, modules_in_order
from deploy.flash.system_files import first_stage
from protocol.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

INDEX = """\
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/drivers/mmc/host/sdhci-iproc.ko: kernel/drivers/mmc/host/sdhci.ko
kernel/drivers/mmc/host/sdhci.ko:
"""
BUILT_IN = "kernel/drivers/mmc/core/mmc_block.ko\n"


def test_each_module_comes_once_and_after_those_it_needs() -> None:
    order = modules_in_order(["ext4", "sdhci_iproc", "mmc_block", "ext4"], index=INDEX, built_in=BUILT_IN)
    names = [path.rsplit("/", 1)[1] for path in order]
    assert sorted(names) == sorted(set(names))
    assert names.index("crc16.ko") < names.index("jbd2.ko") < names.index("ext4.ko")
    assert names.index("sdhci.ko") < names.index("sdhci-iproc.ko")
    assert "mmc_block.ko" not in names  # built into the kernel


def test_a_module_that_the_kernel_lacks_is_an_error_now_and_not_at_the_boot() -> None:
    with pytest.raises(EngineError, match="no module nvme"):
        modules_in_order(["nvme"], index=INDEX, built_in=BUILT_IN)


def test_an_archive_is_what_the_format_says() -> None:
    # An independent reading of newc: fields of 8 hexadecimal digits, names and contents padded to 4 bytes.
    archive, found = cpio_archive({"bin": (0o040755, b""), "bin/x": (0o100755, b"hello")}), {}
    at = 0
    while True:
        head = archive[at : at + 110]
        assert head[:6] == b"070701"
        mode, size, n_name = (int(head[6 + 8 * i : 14 + 8 * i], 16) for i in (1, 6, 11))
        name = archive[at + 110 : at + 110 + n_name - 1].decode()
        at += -(-(110 + n_name) // 4) * 4
        if name == "TRAILER!!!":
            break
        found[name] = (mode, archive[at : at + size])
        at += -(-size // 4) * 4
    assert found == {"bin": (0o040755, b""), "bin/x": (0o100755, b"hello")}


def test_the_first_stage_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/modules/6.1"
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text("a.ko:\n")
    (folder / "modules.builtin").write_text("")
    (folder / "a.ko").write_bytes(b"module")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/busybox").write_bytes(b"busybox")
    made = [initrd_bytes(tmp_path, ("a",), first_stage()) for _ in range(2)]
    assert made[0] == made[1]
    with pytest.raises(EngineError, match="no first stage"):
        initrd_bytes(tmp_path / "usr", ("a",), first_stage())


def test_the_scripts_are_shell_that_parses() -> None:
    from deploy.flash.system_files import GROW_SCRIPT

    for script in (first_stage(), GROW_SCRIPT):
        assert subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=False).returncode == 0
