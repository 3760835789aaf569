"""From a target and a device's settings to the steps that make its image. Pure: the same arguments, the same steps.

Workflow: unpack Debian's packages -> remove what no device needs -> the agent and its wheels -> the files that make
it a system -> first stage -> the three file systems -> one image. The data partition holds all that is of this one
device; the other two are the same for a whole batch.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from deploy.flash import layout
from deploy.flash.accounts import AGENT_ID
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
    Lists,
    MakeExt4,
    MakeInitrd,
    MakeVfat,
    Move,
    Prune,
    Put,
    Run,
)
from deploy.flash.system_files import DATA_LABEL, SYSTEM_LABEL, first_stage, system_files
from deploy.flash.target import BASE_PACKAGES, BootFile
from deploy.flash.wheels import PRUNED, WheelPlatform, site_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.flash.settings import DeviceSetup
    from deploy.flash.steps import Step
    from deploy.flash.target import Target

__all__ = ["PROGRAMS", "data_steps", "image_steps", "join_steps", "system_steps"]

PROGRAMS: Final = ("mmdebstrap", "depmod", "mkfs.ext4", "debugfs", "mkfs.vfat", "mcopy", "genimage", "xz")
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
    return (
        *system_steps(target, setup, work=work, programs=programs),
        *data_steps(setup, work=work),
        *join_steps(work=work, out=out, programs=programs),
    )


def system_steps(target: Target, setup: DeviceSetup, *, work: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that make the boot and the system partition; a batch shares them."""
    root, boot = work / "root", work / "boot"
    platform = WheelPlatform(machine={"arm64": "aarch64", "amd64": "x86_64"}[target.architecture], python=target.python)
    site = root / "opt/edgefold/site"
    kernel = (BootFile(source="boot/vmlinuz-*", name="vmlinuz"), BootFile(source="boot/initrd.img"))
    return (
        Run(what="unpack Debian packages", argv=_unpack(target, setup, root, programs)),
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
    """Return the steps that make the data partition: settings, bundles, examples, and the token of the first boot."""
    data = work / "data"
    home, provision = data / "edgefold", data / "provision"
    brought: list[Step] = [CopyTree(source=one, into=home / one.resolve().name) for one in setup.bundles]
    if setup.examples is None:
        brought.append(Put(path=home / "examples.jsonl", data=b"", mode=0o600))
    else:
        brought.append(CopyTree(source=setup.examples, into=home / f"examples{setup.examples.suffix}"))
    return (
        Put(path=home / "agent.toml", data=agent_settings(setup).encode(), mode=0o600),
        *brought,
        Put(path=provision / "token", data=f"{setup.token}\n".encode(), mode=0o600),
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


def join_steps(*, work: Path, out: Path, programs: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps that make one image of the three partitions."""
    config = work / "genimage.cfg"
    folders = {"inputpath": ".", "outputpath": "joined", "rootpath": "nothing", "tmppath": "scratch"}
    argv = (programs["genimage"], f"--config={config}", *(f"--{key}={work / name}" for key, name in folders.items()))
    image = work / "joined" / layout.IMAGE
    steps: list[Step] = [
        Put(path=config, data=layout.genimage_config().encode()),
        Folder(path=work / "nothing"),
        Run(what="join the partitions", argv=argv),
    ]
    if out.suffix == ".xz":
        steps.append(Run(what="pack", argv=(programs["xz"], "--threads=0", "-3", str(image)), deadline_s=_PACK_S))
        image = image.with_name(image.name + ".xz")
    return (*steps, Move(source=image, to=out))


def _unpack(target: Target, setup: DeviceSetup, root: Path, programs: Mapping[str, str]) -> tuple[str, ...]:
    packages = [*BASE_PACKAGES, *target.packages, *(("openssh-server", "openssh-client") if setup.ssh_keys else ())]
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
