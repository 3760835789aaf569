"""Images as vendors make them, of Debian's packages, to try things on that no vendor's own image is at hand for.

A system as it comes from a vendor: everything in one writable ext4, users, systemd, Python, an SSH server with a key of
the tester's, network by DHCP, and little room. ``dos`` is divided as Raspberry Pi OS (FAT, then the system), ``gpt`` as
a Jetson's card (the system is partition 1 and lies last). Kernel and first stage are for QEMU's ``virt`` machine.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from deploy.flash import accounts
from deploy.flash.image_plan import system_unpacking
from deploy.flash.programs import require_programs, run_program
from deploy.flash.steps import (
    Entry,
    FillBoot,
    Folder,
    Link,
    Lists,
    MakeExt4,
    MakeInitrd,
    MakeVfat,
    Put,
    Run,
    Step,
)
from deploy.flash.system_files import first_stage, hosts_text
from deploy.flash.target import BASE_PACKAGES, BootFile, Target
from deploy.flash.targets import qemu_virt
from deploy.flash.workshop import carry_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PROGRAMS", "make_vendor_like"]

PROGRAMS: Final = ("mmdebstrap", "depmod", "mkfs.ext4", "debugfs", "mkfs.vfat", "mcopy", "genimage", "ssh-keygen")
_LABEL: Final = "rootfs"
_PACKAGES: Final = ("openssh-server", "openssh-client", "passwd", "login", "tar", "gzip", "findutils", "libpam-modules")
_FREE_BYTES: Final = 24 << 20  # a vendor's image is as small as it can be: an agent has no room in it
_FSTAB: Final = f"LABEL={_LABEL} / ext4 defaults,noatime 0 1\n"
_NETWORK: Final = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
_SSHD: Final = "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\n"
_CONSOLE: Final = "[Journal]\nForwardToConsole=yes\nMaxLevelConsole=info\n"
# As pam-auth-update makes them; nobody has a password to begin with.
_PAM: Final = {
    "auth": "auth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so\n",
    "session": "session required pam_unix.so\n",
    "session-noninteractive": "session required pam_unix.so\n",
}
_UNITS: Final = "usr/lib/systemd/system"
_WANTED: Final = ("systemd-networkd.service", "systemd-resolved.service", "ssh.service")
_SHADOW_ID: Final = 42  # base-passwd's
_BOOT_BYTES: Final = 96 << 20
_DOS: Final = """\
image disk.img {
  hdimage {
    align = 1M
    partition-table-type = mbr
    disk-signature = 0x5e0a11ed
  }
  partition boot {
    image = boot.vfat
    partition-type = 0xC
  }
  partition system {
    image = system.ext4
    partition-type = 0x83
  }
}
"""
_GPT: Final = """\
image disk.img {
  hdimage {
    align = 1M
    partition-table-type = gpt
  }
  partition APP {
    image = system.ext4
    offset = 128M
    partition-type-uuid = 0fc63daf-8483-4772-8e79-3d69d8477de4
  }
  partition esp {
    image = boot.vfat
    offset = 1M
    partition-type-uuid = c12a7328-f81f-11d2-ba4b-00a0c93ec93b
  }
}
"""


def make_vendor_like(
    folder: Path, *, ssh_keys: str, watch: Callable[[str], None] = lambda _: None
) -> tuple[Path, Path]:
    """Make both images in the empty ``folder``; return the one with a DOS table and the one with a GPT.

    Args:
        folder: where to build; about 2 GB.
        ssh_keys: who may log in as root, in the format of authorized_keys.
        watch: told each step.

    Raises:
        ConfigError: a program is missing (the user's fault).
        EngineError: a program failed.
    """
    programs, root = require_programs(PROGRAMS), folder / "root"
    target = Target(
        name="vendor-like",
        summary="a system as a vendor makes it",
        boards=("QEMU virt",),
        packages=(*qemu_virt.TARGET.packages, *_PACKAGES),
        modules=qemu_virt.TARGET.modules,
        command_line=qemu_virt.TARGET.command_line,
    )
    packages = (*BASE_PACKAGES, *target.packages)
    carry_out(
        [Run(what="unpack Debian packages", argv=system_unpacking(target, packages, root, programs))], watch=watch
    )
    (root / "etc/ssh").mkdir(exist_ok=True)
    key = root / "etc/ssh/ssh_host_ed25519_key"
    run_program((programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", str(key)))
    carry_out(_system_steps(root, folder, ssh_keys), watch=watch)
    made = []
    for kind, config in (("dos", _DOS), ("gpt", _GPT)):
        carry_out(_join_steps(folder, kind, config, programs), watch=watch)
        made.append(folder / f"joined-{kind}" / "disk.img")
    return made[0], made[1]


def _system_steps(root: Path, work: Path, ssh_keys: str) -> tuple[Step, ...]:
    masters = root / "usr/share/base-passwd"
    passwd = _without_agent(accounts.passwd_text((masters / "passwd.master").read_text("utf-8")))
    group = _without_agent(accounts.group_text((masters / "group.master").read_text("utf-8")))
    texts = (
        ("etc/passwd", passwd, 0o644),
        ("etc/group", group, 0o644),
        ("etc/shadow", accounts.shadow_text(passwd), 0o640),
        ("etc/gshadow", "".join(f"{line.split(':')[0]}:*::\n" for line in group.splitlines()), 0o640),
        ("etc/fstab", _FSTAB, 0o644),
        ("etc/hostname", "vendor\n", 0o644),
        ("etc/hosts", hosts_text("vendor"), 0o644),
        ("etc/machine-id", "", 0o444),
        ("etc/.updated", "", 0o644),
        ("etc/systemd/network/20-wired.network", _NETWORK, 0o644),
        ("etc/systemd/journald.conf.d/console.conf", _CONSOLE, 0o644),
        ("etc/ssh/sshd_config", _SSHD, 0o644),
        ("root/.ssh/authorized_keys", ssh_keys, 0o600),
        *((f"etc/pam.d/common-{name}", text, 0o644) for name, text in _PAM.items()),
    )
    links = (
        ("usr/bin/sh", "dash"),
        ("etc/mtab", "../proc/self/mounts"),
        ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        ("etc/systemd/system/default.target", f"/{_UNITS}/multi-user.target"),
        ("etc/systemd/system/systemd-firstboot.service", "/dev/null"),
        *((f"etc/systemd/system/multi-user.target.wants/{one}", f"/{_UNITS}/{one}") for one in _WANTED),
    )
    boot = (BootFile(source="boot/vmlinuz-*", name="vmlinuz"), BootFile(source="boot/initrd.img"))
    stage = first_stage(_LABEL)
    return (
        *(Put(path=root / path, data=text.encode(), mode=mode) for path, text, mode in texts),
        *(Link(path=root / path, to=to) for path, to in links),
        *(Folder(path=root / name) for name in ("dev", "proc", "run", "sys")),
        Lists(root=root),
        MakeInitrd(root=root, modules=qemu_virt.TARGET.modules, script=stage, out=root / "boot/initrd.img"),
        FillBoot(root=root, files=boot, out=work / "boot"),
        MakeVfat(folder=work / "boot", label="BOOT", out=work / "boot.vfat", size_bytes=_BOOT_BYTES),
        MakeExt4(
            folder=root,
            label=_LABEL,
            out=work / "system.ext4",
            free_bytes=_FREE_BYTES,
            owners=tuple(Entry(path=PurePosixPath("etc", name), group_id=_SHADOW_ID) for name in ("shadow", "gshadow")),
        ),
    )


def _join_steps(work: Path, kind: str, config: str, programs: dict[str, str]) -> tuple[Step, ...]:
    path = work / f"{kind}.cfg"
    folders = {"inputpath": ".", "outputpath": f"joined-{kind}", "rootpath": "nothing", "tmppath": f"scratch-{kind}"}
    argv = (programs["genimage"], f"--config={path}", *(f"--{key}={work / name}" for key, name in folders.items()))
    return (
        Put(path=path, data=config.encode()),
        Folder(path=work / "nothing"),
        Run(what=f"join the partitions, {kind}", argv=argv),
    )


def _without_agent(text: str) -> str:
    """Return users or groups without ours: a vendor knows nothing of it."""
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("edgefold:"))
