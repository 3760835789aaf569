"""The table of engines: what each is made of, where its environment lies, and which interpreter runs its trainers.

The wheels exclude each other (``onnxruntime`` and ``onnxruntime-training-cpu`` install the same package, while
``tflite-runtime`` needs another numpy), so every engine but ``portable`` has a virtual environment of its own, made by
``edgefold engine install`` (``host.engine_install``).

Laws: reads files and nothing else; loads no runtime; versions are pinned here and nowhere else, and an environment that
was made for other versions, or for another edgefold, is not used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from protocol.errors import BundleError, ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "PREFERENCE",
    "SPECS",
    "STAMP",
    "TRAINER_PACKAGES",
    "Environment",
    "Spec",
    "choose_engine",
    "environment_of",
    "interpreter_of",
    "packages_root",
    "spec_of",
]

FOLDER_VARIABLE: Final = "EDGEFOLD_ENGINES"
STAMP: Final = "edgefold-engine.json"  # written last: an environment without it was never finished
_MAX_STAMP_BYTES: Final = 65536
# What a trainer needs beside its engine; cryptography draws the noise of sample-level privacy.
TRAINER_PACKAGES: Final = (
    "cbor2==6.3.0",
    "tokenizers==0.23.3",
    "cryptography==50.0.2",
    "cffi==2.1.1",
    "pycparser==3.12",
)
# The fastest first, as measured in docs/export.md: the portable graph takes two thirds of onnxruntime-training's time.
PREFERENCE: Final = ("portable", "ort-training", "litert")

State: TypeAlias = Literal["built-in", "installed", "missing", "stale", "unsupported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What an engine's environment is made of; installed without dependencies, so the list is whole."""

    name: str
    summary: str
    packages: tuple[str, ...] = ()
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 11), (3, 13))  # first and last with wheels
    machines: tuple[str, ...] = ()  # any if empty
    with_dependencies: bool = False
    borrows: bool = False  # sees the packages of the interpreter that installed it, after its own


def _litert_packages() -> tuple[str, ...]:
    if platform.machine() in {"x86_64", "AMD64"}:
        return (
            "ai-edge-litert==2.3.0",
            "numpy==2.4.6",
            "flatbuffers==25.12.19",
            "backports.strenum==1.2.8",
            "tqdm==4.70.1",
            "typing_extensions==4.16.0",
            "protobuf==7.36.2",
            "ml_dtypes==0.6.0",
        )
    # Elsewhere its wheels crashed in emulation; 2.14 is the last tflite-runtime, and knows numpy 1 alone.
    return ("tflite-runtime==2.14.0", "numpy==1.26.4")


SPECS: Final = {
    spec.name: spec
    for spec in (
        Spec(name="portable", summary="the ordinary onnxruntime, on a graph of standard operators"),
        Spec(
            name="ort-training",
            summary="onnxruntime-training: derives the backward itself",
            # onnx and what it needs write the artifacts at export; a trainer never loads them.
            packages=(
                *TRAINER_PACKAGES,
                "onnxruntime-training-cpu==1.19.2",
                "numpy==2.4.6",
                "flatbuffers==25.12.19",
                "onnx==1.23.2",
                "protobuf==7.36.2",
                "ml_dtypes==0.6.0",
                "typing_extensions==4.16.0",
            ),
            pythons=((3, 11), (3, 12)),
            machines=("x86_64", "AMD64"),
        ),
        Spec(
            name="litert",
            summary="LiteRT (TensorFlow Lite): fixed shapes, for phone-class devices",
            packages=(*TRAINER_PACKAGES, *_litert_packages()),
        ),
        Spec(
            name="litert-export",
            summary="what writes LiteRT files at export; no trainer runs here",
            packages=("litert-torch==0.10.0",),
            machines=("x86_64", "AMD64"),
            with_dependencies=True,
            borrows=True,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One engine on this machine."""

    spec: Spec
    folder: Path | None  # None: the interpreter that runs now
    interpreter: str
    state: State
    why: str = ""  # what is wrong, and what to type


def spec_of(name: str) -> Spec:
    """Return the engine ``name``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SPECS:
        raise ConfigError(f"no engine is called {name!r}; there are {', '.join(SPECS)}")
    return SPECS[name]


def engines_folder() -> Path:
    """Return where this user's engines lie: $EDGEFOLD_ENGINES, or a folder of the user's data."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute()
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "edgefold" / "engines"


def packages_root() -> Path:
    """Return the folder that holds this edgefold's packages."""
    return Path(__file__).resolve().parent.parent


def environment_of(name: str, *, folder: Path | None = None) -> Environment:
    """Return how the engine ``name`` stands on this machine; nothing is started.

    Raises:
        ConfigError: there is no such engine.
    """
    spec = spec_of(name)
    if not spec.packages:
        has_it = importlib.util.find_spec("onnxruntime") is not None
        why = "" if has_it else "onnxruntime is not installed here; run: pip install onnxruntime"
        return Environment(
            spec=spec, folder=None, interpreter=sys.executable, state="built-in" if has_it else "missing", why=why
        )
    home = (folder or engines_folder()) / name
    interpreter = str(home / "bin" / "python")
    if spec.machines and platform.machine() not in spec.machines:
        why = f"{spec.packages[-1] if spec.borrows else name} has no wheels for {platform.machine()}"
        return Environment(spec=spec, folder=home, interpreter=interpreter, state="unsupported", why=why)
    state, why = _state_of(spec, home)
    return Environment(spec=spec, folder=home, interpreter=interpreter, state=state, why=why)


def _state_of(spec: Spec, home: Path) -> tuple[State, str]:
    install = f"run: edgefold engine install {spec.name}"
    try:
        with (home / STAMP).open("rb") as file:
            stamp = json.loads(file.read(_MAX_STAMP_BYTES))
        packages, root = tuple(stamp["packages"]), stamp["edgefold"]
    except (OSError, ValueError, KeyError, TypeError):
        return "missing", f"the engine {spec.name} is not installed; {install}"
    if packages != spec.packages:
        return "stale", f"the engine {spec.name} was installed in other versions; {install}"
    if root != str(packages_root()):
        return "stale", f"the engine {spec.name} was installed by another edgefold; {install}"
    return "installed", ""


def interpreter_of(name: str) -> str:
    """Return the interpreter in which the engine ``name`` runs.

    Raises:
        ConfigError: there is no such engine.
        EngineError: it is not installed, and what to type.
    """
    found = environment_of(name)
    if found.state not in {"built-in", "installed"}:
        raise EngineError(found.why)
    return found.interpreter


def choose_engine(wanted: str, offered: Iterable[str]) -> str:
    """Return the engine to train a bundle with.

    Args:
        wanted: an engine's name, or ``auto`` for the first of ``PREFERENCE`` that the bundle has and this machine too.
        offered: the engines that the bundle has graphs for.

    Raises:
        ConfigError: there is no engine ``wanted``.
        BundleError: the bundle has no graphs for it, or for any engine.
        EngineError: it is not installed here, and what to type.
    """
    offered = sorted(offered)
    if wanted != "auto":
        spec_of(wanted)
        if wanted not in offered:
            raise BundleError(f"the bundle has no graphs for the engine {wanted!r}; it has {', '.join(offered)}")
        interpreter_of(wanted)
        return wanted
    found = [environment_of(name) for name in PREFERENCE if name in offered]
    for one in found:
        if one.state in {"built-in", "installed"}:
            return one.spec.name
    if not found:
        raise BundleError(f"the bundle has no graphs for any engine known here; it has {', '.join(offered)}")
    raise EngineError("; ".join(one.why for one in found))
