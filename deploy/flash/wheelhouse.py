"""A folder of wheels for machines that have no network, and the agent's program folder made of it.

    DIR/wheelhouse.json    for which platform and Python, and each wheel's SHA-256
    DIR/*.whl

``make_release`` turns it into one .tar.gz of ``site/`` (wheels unpacked, this edgefold's packages) and
``bin/edgefold``: a device needs a Python and tar, neither pip nor a compiler. Laws: a wheel that is not what the
list says is refused; the name of a release is the hash of what is in it, so the same release is the same name
everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol

from deploy.flash.programs import run_program
from deploy.flash.steps import CopyAgent, Prune, Step
from deploy.flash.wheels import PLATFORMS, PRUNED, WheelPlatform, device_requirements, pip_arguments
from deploy.flash.workshop import carry_out
from host.durable import make_folder, read_bytes, write_bytes
from protocol.errors import ConfigError, StorageError, TrustError
from protocol.fields import FieldError, Hex, Length, plain, structure

__all__ = ["Machine", "Release", "Wheelhouse", "make_release", "make_wheelhouse", "open_wheelhouse"]

_LIST: Final = "wheelhouse.json"
_MAX_LIST_BYTES: Final = 1 << 20
_RELEASE_NAME_CHARS: Final = 16


class Machine(Protocol):
    """What a release is made for: a machine that runs, or a system in an image."""

    @property
    def platform(self) -> str: ...  # noqa: D102 - linux-aarch64 or linux-x86_64
    @property
    def python(self) -> str: ...  # noqa: D102 - such as 3.11


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheelhouse:
    """What a wheelhouse says of itself."""

    platform: Annotated[str, Length(1, 64)]  # linux-aarch64 or linux-x86_64
    python: Annotated[str, Length(3, 8)]  # such as 3.11
    wheels: dict[str, Hex]  # SHA-256 by file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The agent as one file: ``name`` is of its content."""

    name: str
    path: Path
    installed_bytes: int


def make_wheelhouse(folder: Path, *, platform: str, python: str) -> Wheelhouse:
    """Download the device's wheels into ``folder``.

    Raises:
        ConfigError: no such platform, or the folder is not empty (the user's fault).
        EngineError: pip failed.
    """
    if platform not in PLATFORMS:
        raise ConfigError(f"platform {platform!r}: expected {' or '.join(PLATFORMS)}")
    make_folder(folder)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder}: not empty")
    wheels = WheelPlatform(machine=PLATFORMS[platform], python=python)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", f"--dest={folder}")
    run_program((*pip, *pip_arguments(wheels), *device_requirements(wheels.machine)), deadline_s=1800)
    found = {path.name: _sha256(path) for path in sorted(folder.glob("*.whl"))}
    made = Wheelhouse(platform=platform, python=python, wheels=found)
    write_bytes(folder / _LIST, json.dumps(plain(made), indent=2).encode() + b"\n", mode=0o644)
    return made


def open_wheelhouse(folder: Path) -> Wheelhouse:
    """Return the wheelhouse in ``folder`` after looking at every byte of it.

    Raises:
        ConfigError: there is none.
        TrustError: a wheel is missing or another than the list says.
    """
    try:
        made = structure(Wheelhouse, json.loads(read_bytes(folder / _LIST, max_bytes=_MAX_LIST_BYTES)))
    except (FileNotFoundError, StorageError, ValueError, FieldError) as error:
        raise ConfigError(
            f"{folder}: no wheelhouse ({_LIST}); run: edgefold flash wheelhouse --out {folder}"
        ) from error
    for name, expected in made.wheels.items():
        if Path(name).name != name or not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise TrustError(f"{folder / name}: not the wheel that {_LIST} names; make the wheelhouse again")
    return made


def make_release(wheelhouse: Path, out: Path, *, machine: Machine, program: str) -> Release:
    """Make the agent's program folder of a wheelhouse, without any network, as one file in the folder ``out``.

    Args:
        wheelhouse: checked first.
        out: where RELEASE.tar.gz is written.
        machine: what it is for.
        program: the text of ``bin/edgefold``.

    Raises:
        ConfigError, TrustError: see ``open_wheelhouse``.
        EngineError: pip failed.
    """
    facts = open_wheelhouse(wheelhouse)
    if (facts.platform, facts.python) != (machine.platform, machine.python):
        ours, theirs = f"{facts.platform} and Python {facts.python}", f"{machine.platform} and Python {machine.python}"
        raise ConfigError(f"{wheelhouse}: for {ours}, the machine is {theirs}")
    wheels = WheelPlatform(machine=PLATFORMS[facts.platform], python=facts.python)
    with tempfile.TemporaryDirectory(prefix="edgefold-release-") as name:
        root = Path(name)
        site = root / "site"
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile")
        files = [str(wheelhouse / one) for one in sorted(facts.wheels)]
        run_program((*pip, "--no-index", f"--target={site}", *pip_arguments(wheels), *files))
        steps: tuple[Step, ...] = (CopyAgent(into=site), Prune(root=site, patterns=PRUNED))
        carry_out(steps)
        (root / "bin").mkdir()
        (root / "bin/edgefold").write_text(program, "utf-8")
        (root / "bin/edgefold").chmod(0o755)
        digest, n_bytes = _content(root)
        path = out / f"{digest[:_RELEASE_NAME_CHARS]}.tar.gz"
        _pack(root, path)
    return Release(name=digest[:_RELEASE_NAME_CHARS], path=path, installed_bytes=n_bytes)


def _content(root: Path) -> tuple[str, int]:
    """Return a hash of all names and contents, and their bytes."""
    digest, n_bytes = hashlib.sha256(), 0
    for path in _files(root):
        data = path.read_bytes()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(data).digest())
        n_bytes += len(data)
    return digest.hexdigest(), n_bytes


def _pack(root: Path, path: Path) -> None:
    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    temporary = path.with_suffix(".partial")
    with tarfile.open(temporary, "w:gz", compresslevel=3) as archive:
        for one in ("bin", "site"):
            archive.add(root / one, arcname=one, filter=anonymous)
    temporary.replace(path)


def _files(root: Path) -> list[Path]:
    return sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
