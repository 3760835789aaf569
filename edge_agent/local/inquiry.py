"""What ``edgefold agent predict`` does: inputs from its argument, asked of the endpoint or of a model loaded here.

Laws: a file is read by the rules of training data (bounded lines, errors name the line); inputs are asked one at a
time, so that the latency told is that of one answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.adapters.fetched_bundles import whole_folders
from edge_agent.local.endpoint import ask, read_port
from edge_agent.local.latency import Latency
from edge_agent.local.serving import Serving
from host.bundle_folder import open_bundle
from host.durable import read_bytes
from protocol.errors import ConfigError, StorageError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edge_agent.config import AgentConfig

__all__ = ["answer_all", "read_inputs"]

_MAX_INPUTS: Final = 100_000
_MAX_INPUT_BYTES: Final = 64 * 2**20
_FILES: Final = (".jsonl", ".csv", ".json")


def read_inputs(what: str) -> Iterator[dict[str, Any]]:
    """Yield the inputs that ``what`` names: a file's, or the one text that it is.

    Raises:
        ConfigError: it names a file that is not there or not readable (the user's fault).
    """
    path = Path(what)
    if path.suffix.lower() not in _FILES or len(what) > 4096 or "\n" in what:
        yield {"text": what}
    elif path.suffix.lower() == ".json":
        yield _one(path)
    else:
        from edge_agent.trainer.examples import read_rows  # noqa: PLC0415 - a text needs no reader

        for where, row in read_rows(path, max_rows=_MAX_INPUTS):
            if not isinstance(row, dict):
                raise ConfigError(f"{where}: expected an object")
            yield {name: value for name, value in row.items() if name not in ("label", "labels")}


def answer_all(here: Path, config: AgentConfig, inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return predictions, the model that made the last of them, and the latency over all.

    Raises:
        ConfigError, BundleError, EngineError, StorageError, UpdateError: see ``local.serving``.
    """
    answer = _way(here, config)
    predictions: list[Any] = []
    model: Any = None
    latency = Latency()
    for one in inputs:
        said = answer(one)
        predictions.extend(said["predictions"])
        latency.add(said["took_ms"] / 1000)
        model = said["model"]
    return {"predictions": predictions, "model": model, "latency": plain(latency.percentiles())}


def _way(here: Path, config: AgentConfig) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return how to ask: the endpoint if one answers, a model in this process otherwise."""
    port = None if config.predict.port is None else read_port(here / config.device.folder)
    if port is not None and ask(port, "GET", "/health") is not None:
        return lambda one: ask(port, "POST", "/predict", one) or _gone(port)
    fetched = here / config.bundles.folder
    folders = [*(here / name for name in config.device.bundles), *whole_folders(fetched)]
    bundles = [open_bundle(folder) for folder in folders]
    serving = Serving(
        here / config.device.folder,
        bundles={bundle.id: str(bundle.folder) for bundle in bundles},
        task=config.predict.task,
        labels=config.predict.labels,
        threads=config.predict.threads,
    )

    def answer(one: dict[str, Any]) -> dict[str, Any]:
        answers = serving.answer([one])
        return {"predictions": answers.predictions, "model": asdict(answers.served), "took_ms": answers.took_ms}

    return answer


def _gone(port: int) -> dict[str, Any]:
    raise ConfigError(f"the local process on port {port} ended just now; ask again")


def _one(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path, max_bytes=_MAX_INPUT_BYTES))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except StorageError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object")
    return value
