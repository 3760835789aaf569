"""Makes an engine's virtual environment: pinned wheels, and links to this edgefold's own packages.

Laws: an environment is finished by its stamp, which is written last; an unfinished or outdated one is removed first;
nothing outside the engine's own folder is written. With a wheelhouse nothing is asked of any network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from host.durable import make_folder, write_bytes
from host.engines import STAMP, Environment, Spec, environment_of, packages_root, spec_of
from protocol.errors import ConfigError, EngineError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install_engine", "remove_engine"]

# What trainers and the exporter's child processes import; pure Python beside the pinned packages.
_LINKED: Final = ("protocol", "host", "edge_agent", "export")
_DEADLINE_S: Final = 1800.0  # the largest is 300 MB; a Pi on a slow line takes its time
_ASK: Final = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_path('purelib'), sep=chr(10))"


def install_engine(
    name: str,
    *,
    folder: Path | None = None,
    wheelhouse: Path | None = None,
    python: str | None = None,
    watch: Callable[[str], None] = lambda _: None,
) -> Environment:
    """Return the engine ``name``, installed; nothing happens if it already is.

    Args:
        name: the engine.
        folder: where engines lie; this user's by default.
        wheelhouse: a folder of wheels; then no index is asked.
        python: the interpreter to make the environment with; the running one by default.
        watch: told each step before it begins.

    Raises:
        ConfigError: no such engine, nothing to install, or an interpreter or machine without wheels.
        EngineError: pip could not install it.
        StorageError: the folder cannot be written.
    """
    spec, found = spec_of(name), environment_of(name, folder=folder)
    if found.folder is None:
        raise ConfigError(f"the engine {name} needs no environment of its own")
    if found.state == "unsupported":
        raise ConfigError(found.why)
    if found.state == "installed":
        return found
    interpreter = python or sys.executable
    _refuse_version(spec, interpreter)
    options = _pip_options(spec, wheelhouse)
    home = found.folder
    _clear(home)
    watch("environment")
    _call(
        [interpreter, "-m", "venv", str(home)], "cannot make a virtual environment (Debian: apt install python3-venv)"
    )
    site = _ask(found.interpreter)[1]
    if spec.borrows:
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    watch("packages")
    _call([found.interpreter, "-m", "pip", "install", *options], "pip failed")
    for package in _LINKED:
        (site / package).symlink_to(packages_root() / package)
    stamp = {"packages": spec.packages, "edgefold": str(packages_root())}
    write_bytes(home / STAMP, json.dumps(stamp).encode() + b"\n")
    return environment_of(name, folder=folder)


def remove_engine(name: str, *, folder: Path | None = None) -> bool:
    """Remove the engine's environment; return whether there was one.

    Raises:
        ConfigError: no such engine, or it has no environment of its own.
        StorageError: it cannot be removed.
    """
    home = environment_of(name, folder=folder).folder
    if home is None:
        raise ConfigError(f"the engine {name} has no environment of its own")
    was_there = home.exists()
    _clear(home)
    return was_there


def _refuse_version(spec: Spec, interpreter: str) -> None:
    version, _ = _ask(interpreter)
    first, last = spec.pythons
    if not first <= version <= last:
        raise ConfigError(
            f"the engine {spec.name} has wheels for Python {first[0]}.{first[1]} to {last[0]}.{last[1]}, and "
            f"{interpreter} is {version[0]}.{version[1]}; name another with --python"
        )


def _ask(interpreter: str) -> tuple[tuple[int, int], Path]:
    """Return version and site-packages of an interpreter."""
    lines = _call([interpreter, "-c", _ASK], "no Python there").splitlines()
    major, minor = lines[0], lines[1]
    return (int(major), int(minor)), Path(lines[2])


def _pip_options(spec: Spec, wheelhouse: Path | None) -> list[str]:
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
    if not spec.with_dependencies:
        options.append("--no-deps")
    if wheelhouse is not None:
        if not wheelhouse.is_dir():
            raise ConfigError(f"--wheelhouse {wheelhouse}: no such folder")
        options += ["--no-index", "--find-links", str(wheelhouse)]
    return [*options, *spec.packages]


def _clear(home: Path) -> None:
    """Remove an environment, its stamp first, so that half of one is never taken for a whole."""
    try:
        (home / STAMP).unlink(missing_ok=True)
        if home.exists():
            shutil.rmtree(home)
        make_folder(home.parent)
    except OSError as error:
        raise StorageError(f"{home}: cannot be removed: {error.strerror}") from error


def _call(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)
    except OSError as error:
        raise ConfigError(f"{command[0]}: {what}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{what}: it took more than {_DEADLINE_S:.0f} s") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise EngineError(f"{what}: {errors[-1][:300] if errors else f'it exited with {done.returncode}'}")
    return done.stdout
