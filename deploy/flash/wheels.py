"""What a device's Python needs, and how pip fetches it for a machine that is not this one.

The list is edgefold's own base dependencies (pyproject.toml), and of what those need whatever this machine has
installed, in these very versions: what was tested is what devices get. ``tokenizers`` names the Hugging Face hub,
which a device never asks: it and all that only it needs stay away.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PLATFORMS", "PRUNED", "WheelPlatform", "device_requirements", "pip_arguments", "site_command"]

_NOT_NEEDED: Final = frozenset({"huggingface-hub", "coloredlogs", "sympy"})
# On aarch64 1.23.2 is what ran under emulation; 1.32.0 ended with a segmentation fault in qemu-user 7.2.
_FIXED: Final = {"aarch64": {"onnxruntime": "1.23.2"}}
_GLIBC: Final = ("2014", "_2_17", "_2_27", "_2_28", "_2_31", "_2_34")
# Of what is installed: tests, headers, type stubs, and onnxruntime's tools for other machines than a device.
PRUNED: Final = (
    "bin",
    "**/__pycache__",
    "**/*.pyi",
    "**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/f2py",
    "numpy/random/lib",
    "onnxruntime/backend",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPlatform:
    """A machine and its Python, as wheels name them."""

    machine: str = "aarch64"
    python: str = "3.11"

    @property
    def tags(self) -> tuple[str, ...]:
        """The platform tags that fit glibc 2.36, Debian bookworm's, and older ones down to 2.17."""
        return tuple(f"manylinux{glibc}_{self.machine}" for glibc in _GLIBC)


PLATFORMS: Final = {"linux-aarch64": "aarch64", "linux-x86_64": "x86_64"}


def device_requirements(machine: str) -> tuple[str, ...]:
    """Return pinned requirements, sorted, that are complete: pip need not look for more.

    Raises:
        ConfigError: edgefold or one of its dependencies is not installed here (the user's fault).
    """
    fixed, found, waiting = _FIXED.get(machine, {}), dict[str, str](), _needed_by("edgefold")
    while waiting:
        name = waiting.pop()
        if name in found or name in _NOT_NEEDED:
            continue
        found[name] = fixed.get(name) or _version(name)
        waiting += _needed_by(name)
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def pip_arguments(platform: WheelPlatform) -> tuple[str, ...]:
    """Return pip's options for wheels of ``platform`` alone, without looking for dependencies."""
    abi = "cp" + platform.python.replace(".", "")
    options = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={platform.python}"]
    options += [f"--abi={one}" for one in (abi, "abi3", "none")]
    return (*options, *(f"--platform={tag}" for tag in platform.tags))


def _needed_by(name: str) -> list[str]:
    try:
        wanted = [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{name} is not installed here; run: pip install edgefold") from error
    # Markers are read for this machine: Linux and CPython as the device.
    return [canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{name} is not installed here; run: pip install edgefold") from error


def site_command(python: str, site: Path, platform: WheelPlatform) -> tuple[str, ...]:
    """Return the command that unpacks a device's wheels into ``site``."""
    command = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile")
    return (*command, f"--target={site}", *pip_arguments(platform), *device_requirements(platform.machine))
