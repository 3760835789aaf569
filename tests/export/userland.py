"""An arm64 user space without arm64 hardware: Debian's packages unpacked, wheels for another machine, an emulator.

Nothing is installed into this machine and nothing global is changed: no chroot, no binfmt. An emulated process cannot
start an emulated child, so a trainer is started here with the emulator as its interpreter.
Needs the Debian packages qemu-user-static and mmdebstrap, a Debian mirror and a package index; about 30 s and 400 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from host.engines import TRAINER_PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

# The minor version must be that of the suite's python3.
_SUITE, _PYTHON = "bookworm", "3.11"
_DEBIAN = ("python3", "libstdc++6", "libgomp1")
_PLATFORMS = (
    "manylinux2014_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_28_aarch64",
    "manylinux_2_34_aarch64",
)
SITES = {
    # 1.23.2 is what ran under emulation; protobuf and flatbuffers are what its import needs.
    "portable": (*TRAINER_PACKAGES, "numpy==2.4.6", "onnxruntime==1.23.2", "flatbuffers==25.12.19", "protobuf==7.36.2"),
    "litert": (*TRAINER_PACKAGES, "numpy==1.26.4", "tflite-runtime==2.14.0"),
}
TOOLS = ("qemu-aarch64-static", "mmdebstrap")


def missing_tools() -> list[str]:
    """Return the programs that are needed and not here."""
    return [name for name in TOOLS if shutil.which(name) is None]


def make(folder: Path) -> Path:
    """Return a user space in ``folder``, made if it is not there yet or of other packages."""
    root, done = folder / "root", folder / "done"
    wanted = repr((_SUITE, _DEBIAN, SITES))
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        packages = f"--include={','.join(_DEBIAN)}"
        _run(["mmdebstrap", "--architectures=arm64", "--variant=extract", packages, _SUITE, str(root)])
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}"]
        options += ["--abi=cp311", "--abi=abi3", "--abi=none", *(f"--platform={one}" for one in _PLATFORMS)]
        for name, wheels in SITES.items():
            _run([sys.executable, "-m", "pip", "install", *options, f"--target={folder / name}", *wheels])
        done.write_text(wanted)
    return folder


def interpreter(folder: Path, engine: str, *, packages: Path) -> Path:
    """Return a program that is Python in the user space, with the engine's wheels and the packages in ``packages``."""
    root, path = folder / "root", folder / f"python-{engine}"
    path.write_text(
        "#!/bin/sh\n"
        f"PYTHONHOME='{root}/usr' PYTHONPATH='{packages}:{folder / engine}' PYTHONDONTWRITEBYTECODE=1 \\\n"
        f"exec qemu-aarch64-static -L '{root}' '{root}/usr/bin/python{_PYTHON}' \"$@\"\n",
        "utf-8",
    )
    path.chmod(0o755)
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-500:]}")
