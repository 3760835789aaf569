"""Carries out the steps of a plan, in order. The only place of ``flash`` that makes files and runs programs.

Laws: a program that fails ends the plan with the end of what it said; nothing outside the work folder is written but by
``Move``, which is last and at once; a secret is never an argument of a program.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import stat
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.flash import accounts
from deploy.flash.ext4_files import Ext4Files
from deploy.flash.file_systems import make_ext4, make_vfat
from deploy.flash.initrd import initrd_bytes
from deploy.flash.partitions import read_partitions
from deploy.flash.programs import require_programs, run_program
from deploy.flash.steps import (
    Accounts,
    Compile,
    CopyAgent,
    CopyTree,
    DropSetIds,
    FillBoot,
    Folder,
    Inject,
    Link,
    Lists,
    MakeExt4,
    MakeInitrd,
    MakeVfat,
    Move,
    Prune,
    Put,
    Run,
)
from host.engines import packages_root
from protocol.errors import EngineError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deploy.flash.steps import Step

__all__ = ["AGENT_PACKAGES", "carry_out", "copy_agent"]

AGENT_PACKAGES: Final = ("protocol", "host", "edge_agent")


def carry_out(steps: Iterable[Step], *, watch: Callable[[str], None] = lambda _: None) -> None:
    """Carry out ``steps``; ``watch`` is told each before it begins.

    Raises:
        EngineError: a program failed (the environment's fault).
        StorageError: a file could not be written.
    """
    for step in steps:
        watch(_name(step))
        try:
            _ACTIONS[type(step)](step)
        except OSError as error:
            raise StorageError(f"{_name(step)}: {error.filename or ''}: {error.strerror}") from error


def copy_agent(into: Path) -> None:
    """Copy this edgefold's packages that a device runs, and its version, into the folder ``into``."""
    source = packages_root()
    for name in AGENT_PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / name, into / name, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(source / "edgefold.py", into / "edgefold.py")
    version = metadata.version("edgefold")
    folder = into / f"edgefold-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edgefold\nVersion: {version}\n", "utf-8")


def _name(step: Step) -> str:
    match step:
        case Run(what=what):
            return what
        case Put(path=path) | Link(path=path) | Folder(path=path):
            return f"write {path.name}"
        case MakeExt4(label=label) | MakeVfat(label=label):
            return f"make the file system {label}"
        case _:
            return _NAMES[type(step)]


_NAMES: Final = {
    Accounts: "users and groups",
    Compile: "compile",
    CopyAgent: "copy the agent",
    CopyTree: "copy",
    DropSetIds: "take set-user bits away",
    FillBoot: "boot files",
    Inject: "identity",
    Lists: "index kernel modules",
    MakeInitrd: "first stage",
    Move: "move into place",
    Prune: "prune",
}


def _put(step: Put) -> None:
    step.path.parent.mkdir(parents=True, exist_ok=True)
    step.path.unlink(missing_ok=True)  # not through a link that a package brought
    fd = os.open(step.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(step.data)
        os.fchmod(file.fileno(), step.mode)


def _link(step: Link) -> None:
    step.path.parent.mkdir(parents=True, exist_ok=True)
    step.path.unlink(missing_ok=True)
    step.path.symlink_to(step.to)


def _folder(step: Folder) -> None:
    shutil.rmtree(step.path, ignore_errors=True)
    step.path.mkdir(mode=step.mode, parents=True)


def _prune(step: Prune) -> None:
    for pattern in step.patterns:
        for path in list(step.root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _copy(step: CopyTree) -> None:
    step.into.parent.mkdir(parents=True, exist_ok=True)
    if step.source.is_dir():
        shutil.copytree(step.source, step.into)
    else:
        shutil.copyfile(step.source, step.into)


def _make_accounts(step: Accounts) -> None:
    masters = step.root / "usr/share/base-passwd"
    passwd = accounts.passwd_text((masters / "passwd.master").read_text("utf-8"))
    group = accounts.group_text((masters / "group.master").read_text("utf-8"))
    for name, text, mode in (
        ("passwd", passwd, 0o644),
        ("group", group, 0o644),
        ("shadow", accounts.shadow_text(passwd), 0o600),
    ):
        _put(Put(path=step.root / "etc" / name, data=text.encode(), mode=mode))


def _compile(step: Compile) -> None:
    if step.python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return  # the device compiles what it imports, each time that it starts
    # Unchecked: the system is read-only, and copying changes times.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(
        step.root, quiet=2, force=True, workers=0, invalidation_mode=mode, stripdir=str(step.root.parents[2])
    )


def _drop_set_ids(step: DropSetIds) -> None:
    for folder, _, names in os.walk(step.root):
        for name in names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                path.chmod(stat.S_IMODE(mode) & 0o777)


def _index_modules(step: Lists) -> None:
    (folder,) = (step.root / "usr/lib/modules").iterdir()
    run_program((require_programs(["depmod"])["depmod"], "--basedir", str(step.root), folder.name))


def _fill_boot(step: FillBoot) -> None:
    step.out.mkdir()
    for file in step.files:
        found = sorted(step.root.glob(file.source))
        if not found:
            raise EngineError(f"the unpacked system has no {file.source}")
        for path in found:
            shutil.copyfile(path, step.out / (file.name or path.name))


def _inject(step: Inject) -> None:
    (place,) = [one for one in read_partitions(step.image).partitions if one.number == step.number]
    Ext4Files(step.image, place.start_bytes).apply(step.changes)


def _move(step: Move) -> None:
    temporary = step.to.with_name(f".{step.to.name}.partial")
    shutil.move(step.source, temporary)
    temporary.replace(step.to)


# What carries out each kind of step.
_ACTIONS: Final[dict[type[Step], Callable[[Any], object]]] = {
    Accounts: _make_accounts,
    Compile: _compile,
    CopyAgent: lambda step: copy_agent(step.into),
    CopyTree: _copy,
    DropSetIds: _drop_set_ids,
    FillBoot: _fill_boot,
    Folder: _folder,
    Inject: _inject,
    Link: _link,
    Lists: _index_modules,
    MakeExt4: make_ext4,
    MakeInitrd: lambda step: step.out.write_bytes(initrd_bytes(step.root, step.modules, step.script)),
    MakeVfat: make_vfat,
    Move: _move,
    Prune: _prune,
    Put: _put,
    Run: lambda step: run_program(step.argv, deadline_s=step.deadline_s),
}
