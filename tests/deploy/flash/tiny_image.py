"""Tiny images of disks: a few files that look like a system, in ext4, in a partition."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from pathlib import Path, PurePosixPath

from deploy.flash.programs import find_program, run_program
from deploy.flash.wheelhouse import Release

PROGRAMS = ("sfdisk", "debugfs", "e2fsck", "resize2fs", "mkfs.ext4")
LACKING = [name for name in PROGRAMS if find_program(name) is None]
MIB = 1 << 20
ARM64, X86_64, ARM32 = (2, 183), (2, 62), (1, 40)
PASSWD = "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\ntaken:x:990:990::/:/bin/false\n"


def elf(machine: tuple[int, int]) -> bytes:
    """Return the beginning of a program."""
    return b"\x7fELF" + bytes([machine[0], 1]) + bytes(12) + struct.pack("<H", machine[1]) + bytes(44)


def system_tree(folder: Path, *, python: str = "python3.11", machine: tuple[int, int] = ARM64) -> Path:
    """Make the files of a system that a vendor may have made."""
    files = {
        "usr/lib/systemd/systemd": elf(machine),
        f"usr/bin/{python}": elf(machine),
        "usr/lib/os-release": b'NAME="Tiny"\nPRETTY_NAME="Tiny Linux 1"\n',
        "etc/passwd": PASSWD.encode(),
        "etc/group": b"root:x:0:\nshadow:x:42:\npi:x:1000:\n",
        "etc/shadow": b"root:*:19000::::::\npi:!:19000::::::",  # without a newline at its end
        "etc/hosts": b"127.0.0.1 localhost\n127.0.1.1 vendor\n",
        "etc/hostname": b"vendor\n",
        "etc/systemd/system/multi-user.target.wants/README": b"x",
        "home/pi/notes with a space.txt": b"the vendor's own\n",
        "opt/vendor/big.bin": bytes(range(256)) * 4096,
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / f"usr/bin/{python}").chmod(0o755)
    (folder / "usr/bin/python3").symlink_to(python)
    (folder / "etc/shadow").chmod(0o640)
    return folder


def disk(image: Path, tree: Path, *, kind: str = "dos", size: int = 12 * MIB, is_last: bool = True) -> Path:
    """Make an image of two partitions, the system's being ``size`` bytes; the other holds random-looking bytes."""
    other, system = (1, 2) if kind == "dos" else (2, 1)
    starts = {other: MIB, system: 4 * MIB} if is_last else {system: MIB, other: MIB + size}
    sizes = {other: 3 * MIB, system: size}
    names = {"dos": ("c", "83"), "gpt": ("U", "L")}[kind]
    kinds = {other: names[0], system: names[1]}
    with image.open("wb") as file:
        file.truncate(max(starts[one] + sizes[one] for one in starts) + MIB)
    lines = [f"label: {kind}"] + [
        f"{image}{one} : start={starts[one] // 512}, size={sizes[one] // 512}, type={kinds[one]}"
        for one in sorted(starts)
    ]
    run_program((find_program("sfdisk") or "", "--quiet", str(image)), told="\n".join(lines).encode())
    options = ("-q", "-F", "-E", f"offset={starts[system]},root_owner=0:0", "-d", str(tree))
    run_program((find_program("mkfs.ext4") or "", *options, str(image), f"{size // 1024}k"))
    with image.open("r+b") as file:
        file.seek(starts[other])
        block = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
        file.write((block * (3 * MIB // len(block) + 1))[: 3 * MIB])
    return image


def tiny_release(folder: Path, *, n_bytes: int = 5000) -> Release:
    """Make a release of a few files."""
    path = folder / "release.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data, mode in (
            ("bin/edgefold", b"#!/bin/sh\n", 0o755),
            ("site/edgefold.py", b"x = 1\n", 0o644),
            ("site/numpy/core.so", b"\x01" * n_bytes, 0o644),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return Release(name="0123456789abcdef", path=path, installed_bytes=n_bytes)


def dumped(image: Path, offset: int, folder: Path) -> dict[str, str]:
    """Return every file and link of a file system, by debugfs alone: its mode, owner and content's hash or target."""
    folder.mkdir()
    place = f"{image}?offset={offset}"
    run_program((find_program("debugfs") or "", "-R", f'rdump / "{folder}"', place))
    found = {}
    for path in sorted(folder.rglob("*")):
        inner = PurePosixPath("/", path.relative_to(folder).as_posix())
        said = run_program((find_program("debugfs") or "", "-R", f'stat "{inner}"', place)).decode()
        words = said.split()
        owner = (
            f"{words[words.index('Mode:') + 1]} {words[words.index('User:') + 1]}:{words[words.index('Group:') + 1]}"
        )
        if path.is_symlink():
            what = str(path.readlink())
        elif path.is_dir():
            what = "folder"
        else:
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(inner)] = f"{owner} {what}"
    return found
