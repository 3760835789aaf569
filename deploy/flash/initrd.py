"""The first stage of a boot as bytes: a cpio archive of busybox, kernel modules in the order of their needs, a script.

Format: newc (kernel, Documentation/driver-api/early-userspace/buffer-format.rst), compressed with gzip. The same input
gives the same bytes. Pure, but for reading the files that it is told to.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["cpio_archive", "initrd_bytes", "modules_in_order"]

_FOLDER, _PLAIN = 0o040755, 0o100755
_BUSYBOX: Final = "usr/bin/busybox"


def initrd_bytes(root: Path, modules: Sequence[str], script: str) -> bytes:
    """Return the initrd for the system unpacked in ``root``.

    Raises:
        EngineError: the system lacks a module, its index or busybox (ours: the target's file is wrong).
    """
    try:
        (folder,) = (root / "usr/lib/modules").iterdir()
        index = (folder / "modules.dep").read_text("utf-8")
        built_in = (folder / "modules.builtin").read_text("utf-8")
        files = modules_in_order(modules, index=index, built_in=built_in)
        entries: dict[str, tuple[int, bytes]] = dict.fromkeys(_FOLDERS, (_FOLDER, b""))
        entries["bin/busybox"] = (_PLAIN, (root / _BUSYBOX).read_bytes())
        entries["init"] = (_PLAIN, script.encode())
        for path in files:
            entries[f"modules/{Path(path).name}"] = (_PLAIN, (folder / path).read_bytes())
    except (OSError, ValueError) as error:
        raise EngineError(f"{root}: no first stage can be made of it: {error}") from error
    entries["modules.list"] = (_PLAIN, "".join(f"{Path(path).name}\n" for path in files).encode())
    return gzip.compress(cpio_archive(entries), compresslevel=6, mtime=0)


_FOLDERS: Final = ("bin", "dev", "modules", "proc", "root", "sys")


def modules_in_order(wanted: Iterable[str], *, index: str, built_in: str) -> tuple[str, ...]:
    """Return the files of the modules, each after those that it needs; those built into the kernel are left out.

    Args:
        wanted: names, in which ``-`` and ``_`` are the same, as they are to the kernel.
        index: modules.dep.
        built_in: modules.builtin.

    Raises:
        EngineError: no such module.
    """
    needs: dict[str, tuple[str, list[str]]] = {}
    for line in index.splitlines():
        path, _, rest = line.partition(":")
        needs[_name(path)] = (path, [_name(one) for one in rest.split()])
    there = {_name(line) for line in built_in.splitlines()}
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in there and name not in needs:
            return
        if name not in needs:
            raise EngineError(f"the kernel has no module {name}")
        path, before = needs[name]
        for one in before:
            visit(one)
        order.setdefault(path)

    for name in wanted:
        visit(_name(name))
    return tuple(order)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko", maxsplit=1)[0].replace("-", "_")


def cpio_archive(entries: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return a newc archive of ``entries``: mode and content by name, all root's, of the beginning of time."""
    parts = [_member(name, mode, data, number) for number, (name, (mode, data)) in enumerate(entries.items(), 1)]
    return b"".join([*parts, _member("TRAILER!!!", 0, b"", 0)])


def _member(name: str, mode: int, data: bytes, number: int) -> bytes:
    # magic, inode, mode, user, group, links, time, size, 4 device numbers, length of the name, checksum (unused)
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % one for one in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
