"""From a target and a device's settings to the steps that make its image. Pure: the same arguments, the same steps.

Workflow: unpack Debian's packages -> remove what no device needs -> the agent and its wheels -> the files that make
it a system -> first stage -> the three file systems -> one image, the master. What is of one device (its name, its
settings, its token) is put into a finished image, so that a batch builds one master and each further image is a copy.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from deploy.flash import layout
from deploy.flash.accounts import AGENT_ID
from deploy.flash.ext4_files import FileIn
from deploy.flash.settings import agent_settings
from deploy.flash.steps import (
    Accounts,
    Compile,
    CopyAgent,
    CopyTree,
    DropSetIds,
    Entry,
    FillBoot,
    Folder,
    Inject,
    Lists,
    MakeExt4,
    MakeInitrd,
    MakeVfat,
    Move,
    Prune,
    Put,
    Run,
)
from deploy.flash.system_files import DATA_LABEL, SYSTEM_LABEL, first_stage, hosts_text, system_files
from deploy.flash.target import BASE_PACKAGES, BootFile
from deploy.flash.wheels import PRUNED, WheelPlatform, site_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deploy.flash.settings import DeviceSetup
    from deploy.flash.steps import Step
    from deploy.flash.target import Target

__all__ = [
    "PROGRAMS",
    "data_steps",
    "finish_steps",
    "identity_steps",
    "image_steps",
    "join_steps",
    "master_path",
    "master_steps",
    "system_steps",
    "system_unpacking",
]

PROGRAMS: Final = ("mmdebstrap", "depmod", "mkfs.ext4", "debugfs", "mkfs.vfat", "mcopy", "genimage", "sfdisk", "xz")
_MIRROR: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
# /usr holds everything; the old names are links, as in every Debian since 12.
_MERGE: Final = 'for d in bin sbin lib; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d" || exit 1; done'
_DROP: Final = (
    "boot/System.map-*",
    "boot/config-*",
    "dev/*",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/doc/*/[!c]*",  # copyright files stay
    "usr/share/doc/*/changelog*",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/lib2to3",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/udev/hwdb.d",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg/info",
)
_PACK_S: Final = 3600.0  # a minute on a quiet machine
_FREE_IN_SYSTEM: Final = 16 << 20  # read-only: nothing grows


def image_steps(
    target: Target, setup: DeviceSetup, *, work: Path, out: Path, programs: Mapping[str, str]
) -> tuple[Step, ...]:
    """Return the steps that make the image ``out``, in the empty folder ``work``; ``.xz`` in its name packs it."""
    master = master_path(work)
    return (
        *master_steps(target, setup, work=work, programs=programs),
        *identity_steps(setup, master),
        *finish_steps(master, out=out, programs=programs),
    )


def master_path(work: Path) -> Path:
    """Return where ``master_steps`` leave the image."""
    return work / "joined" / layout.IMAGE


def master_steps(target: Target, setup: DeviceSetup, *, work: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that make an image of no device yet, of which ``setup`` gives what a batch shares."""
    return (
        *system_steps(target, setup, work=work, programs=programs),
        *data_steps(setup, work=work),
        *join_steps(work=work, programs=programs),
    )


def identity_steps(setup: DeviceSetup, image: Path) -> tuple[Step, ...]:
    """Return the steps that make an image one device's: its name, its settings, and the token of the first boot."""
    names = (("etc/hostname", f"{setup.device}\n"), ("etc/hosts", hosts_text(setup.device)))
    own = (("edgefold/agent.toml", agent_settings(setup)), ("provision/token", f"{setup.token}\n"))
    root = PurePosixPath("/")
    system = tuple(FileIn(path=root / name, data=text.encode()) for name, text in names)
    data = tuple(
        FileIn(path=root / name, data=text.encode(), mode=0o600, user_id=AGENT_ID, group_id=AGENT_ID)
        for name, text in own
    )
    return (
        Inject(image=image, number=layout.SYSTEM_NUMBER, changes=system),
        Inject(image=image, number=layout.DATA_NUMBER, changes=data),
    )


def system_steps(target: Target, setup: DeviceSetup, *, work: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that make the boot and the system partition."""
    root, boot = work / "root", work / "boot"
    platform = WheelPlatform(machine={"arm64": "aarch64", "amd64": "x86_64"}[target.architecture], python=target.python)
    site = root / "opt/edgefold/site"
    kernel = (BootFile(source="boot/vmlinuz-*", name="vmlinuz"), BootFile(source="boot/initrd.img"))
    packages = [*BASE_PACKAGES, *target.packages, *(("openssh-server", "openssh-client") if setup.ssh_keys else ())]
    return (
        Run(what="unpack Debian packages", argv=system_unpacking(target, packages, root, programs)),
        Accounts(root=root),
        Run(what="fetch wheels for the device", argv=site_command(sys.executable, site, platform)),
        CopyAgent(into=site),
        Prune(root=site, patterns=PRUNED),
        Prune(root=root, patterns=(*_DROP, *target.drop)),
        Compile(root=site, python=target.python),
        *system_files(root, target, setup),
        DropSetIds(root=root),
        Lists(root=root),
        MakeInitrd(root=root, modules=target.modules, script=first_stage(), out=root / "boot/initrd.img"),
        FillBoot(root=root, files=(*kernel, *target.boot_files), out=boot),
        *(Put(path=boot / name, data=text.encode()) for name, text in target.boot_texts.items()),
        *(Folder(path=root / name) for name in _MOUNT_POINTS),
        MakeVfat(folder=boot, label="BOOT", out=work / layout.BOOT_IMAGE, size_bytes=layout.BOOT_BYTES),
        MakeExt4(folder=root, label=SYSTEM_LABEL, out=work / layout.SYSTEM_IMAGE, free_bytes=_FREE_IN_SYSTEM),
    )


_MOUNT_POINTS: Final = ("boot", "data", "dev", "proc", "run", "sys", "tmp", "var", "root")


def data_steps(setup: DeviceSetup, *, work: Path) -> tuple[Step, ...]:
    """Return the steps that make the data partition: bundles, examples, and room for what is of one device."""
    data = work / "data"
    home, provision = data / "edgefold", data / "provision"
    brought: list[Step] = [CopyTree(source=one, into=home / one.resolve().name) for one in setup.bundles]
    if setup.examples is None:
        brought.append(Put(path=home / "examples.jsonl", data=b"", mode=0o600))
    else:
        brought.append(CopyTree(source=setup.examples, into=home / f"examples{setup.examples.suffix}"))
    return (
        *brought,
        Folder(path=provision, mode=0o700),
        MakeExt4(
            folder=data,
            label=DATA_LABEL,
            out=work / layout.DATA_IMAGE,
            free_bytes=setup.data_mb << 20,
            owners=tuple(
                Entry(path=PurePosixPath(name), user_id=AGENT_ID, group_id=AGENT_ID, is_deep=True)
                for name in ("edgefold", "provision")
            ),
        ),
    )


def join_steps(*, work: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that make one image of the three partitions."""
    config = work / "genimage.cfg"
    folders = {"inputpath": ".", "outputpath": "joined", "rootpath": "nothing", "tmppath": "scratch"}
    argv = (programs["genimage"], f"--config={config}", *(f"--{key}={work / name}" for key, name in folders.items()))
    return (
        Put(path=config, data=layout.genimage_config().encode()),
        Folder(path=work / "nothing"),
        Run(what="join the partitions", argv=argv),
    )


def finish_steps(image: Path, *, out: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that move a finished image to ``out``; ``.xz`` in its name packs it."""
    if out.suffix != ".xz":
        return (Move(source=image, to=out),)
    pack = Run(what="pack", argv=(programs["xz"], "--threads=0", "-3", str(image)), deadline_s=_PACK_S)
    return (pack, Move(source=image.with_name(image.name + ".xz"), to=out))


def system_unpacking(
    target: Target, packages: Sequence[str], root: Path, programs: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the command that unpacks Debian packages into the new folder ``root``; none of their scripts is run."""
    components = " ".join(target.components)
    sources = (
        f"deb {_MIRROR} {target.suite} {components}",
        f"deb {_MIRROR} {target.suite}-updates {components}",
        f"deb {_SECURITY} {target.suite}-security {components}",
    )
    return (
        programs["mmdebstrap"],
        "--quiet",
        "--mode=chrootless",  # the others need root or user namespaces; nothing of the packages is run
        "--variant=extract",
        f"--architectures={target.architecture}",
        f"--setup-hook={_MERGE}",
        f"--include={','.join(packages)}",
        target.suite,
        str(root),
        *sources,
    )
