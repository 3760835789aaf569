"""What goes before an import that takes seconds: libraries are told to be quiet, and a missing one is named."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from protocol.errors import ConfigError

__all__ = ["named_extra", "quiet"]


@contextlib.contextmanager
def named_extra() -> Iterator[None]:
    """Turn a missing library into what to type.

    Raises:
        ConfigError: a library of the extra ``export`` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run: pip install 'edgefold[export]'"
        raise ConfigError(message) from error


def quiet() -> None:
    """Silence what the exporter's libraries say about themselves; their errors still come."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "transformers", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
