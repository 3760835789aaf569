"""Pass: what the caller named becomes a local Hugging Face folder.

Laws: a packaged sample's name wins over a folder of that name in the working directory only if no such folder exists;
only the files of a model are fetched from a hub, never code; every failure is one line that says what to do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from models.samples import SAMPLES, sample_folder
from protocol.bundle import ImageFacts, SeriesFacts
from protocol.errors import ConfigError

__all__ = ["Source", "image_facts", "load", "series_facts"]

# What a model is made of. No *.py: edgefold never runs code that comes with a model.
HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
]

# Mean and deviation where a model does not say: levels of 0 to 1 become -1 to 1, as the first ViT was pretrained.
DEFAULT_LEVEL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model's folder and what to call it in the manifest (never a path of this machine)."""

    folder: Path
    name: str


def load(model: str, *, is_text: bool = True) -> Source:
    """Return the folder of a local path, a packaged sample's name or a hub id.

    Requires: nothing.
    Ensures: the folder has ``config.json`` and, for a task on text, ``tokenizer.json``.

    Raises:
        ConfigError: nothing of that name, or files are missing (the caller's fault, or the network's).
    """
    folder = Path(model)
    if folder.is_dir():
        source = Source(folder=folder, name=folder.resolve().name)
    elif model in SAMPLES:
        source = Source(folder=sample_folder(model), name=model)
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        samples = ", ".join(sorted(SAMPLES))
        message = f"{model}: no such folder; give a Hugging Face folder, a hub id (owner/name) or a sample ({samples})"
        raise ConfigError(message)
    else:
        source = Source(folder=_fetch(model), name=model)
    if not (source.folder / "config.json").is_file():
        message = f"{model}: config.json is missing; edgefold needs a Hugging Face folder"
        raise ConfigError(message)
    if is_text and not (source.folder / "tokenizer.json").is_file():
        message = f"{model}: tokenizer.json is missing; edgefold needs a Hugging Face folder with a fast tokenizer"
        raise ConfigError(message)
    return source


def image_facts(folder: Path, config: PretrainedConfig) -> ImageFacts:
    """Return the size and the normalisation of the pictures that a vision model was pretrained on.

    Raises:
        ConfigError: ``preprocessor_config.json`` is there and is not one.
    """
    config = getattr(config, "vision_config", config)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    channels: int = config.num_channels
    path = folder / "preprocessor_config.json"
    try:
        facts = json.loads(path.read_bytes()) if path.is_file() else {}
        mean, std = (facts.get(name, DEFAULT_LEVEL) for name in ("image_mean", "image_std"))
        mean, std = ((value,) * channels if isinstance(value, float) else tuple(value) for value in (mean, std))
        return ImageFacts(height=height, width=width, channels=channels, mean=mean, std=std)
    except (ValueError, AttributeError, TypeError) as error:
        message = f"{path.name}: no image_mean and image_std for {channels} channels in it: {error}"
        raise ConfigError(message) from error


def series_facts(config: PretrainedConfig) -> SeriesFacts:
    """Return the window and the horizon that a forecaster was pretrained on."""
    return SeriesFacts(
        context=config.context_length, horizon=config.prediction_length, channels=config.num_input_channels
    )


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except HFValidationError as error:
        message = f"{hub_id}: not a folder, a sample's name or a hub id"
        raise ConfigError(message) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        message = f"{hub_id}: not in the local cache, and the hub cannot be reached or refuses it; give a local folder"
        raise ConfigError(message) from error
