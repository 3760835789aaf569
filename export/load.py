"""Pass: what the caller named becomes a local Hugging Face folder.

Laws: a packaged sample's name wins over a folder of that name in the working directory only if no such folder exists;
only the files of a model are fetched from a hub, never code; every failure is one line that says what to do.
"""

from dataclasses import dataclass
from pathlib import Path

from models.samples import SAMPLES, sample_folder
from protocol.errors import ConfigError

__all__ = ["Source", "load"]

# What a model is made of. No *.py: edgefold never runs code that comes with a model.
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model's folder and what to call it in the manifest (never a path of this machine)."""

    folder: Path
    name: str


def load(model: str) -> Source:
    """Return the folder of a local path, a packaged sample's name or a hub id.

    Requires: nothing.
    Ensures: the folder has ``config.json`` and ``tokenizer.json``.

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
    for name in ("config.json", "tokenizer.json"):
        if not (source.folder / name).is_file():
            message = f"{model}: {name} is missing; edgefold needs a Hugging Face folder with a fast tokenizer"
            raise ConfigError(message)
    return source


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
