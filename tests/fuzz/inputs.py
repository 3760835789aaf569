"""The decoders of a bundle's graphs, of requests over HTTP and of the small records of devices and service.

See ``targets`` for the laws.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aggregator.adapters.spent_file import SpentFile
from aggregator.config import TaskSettings
from aggregator.web import routes
from aggregator.web.problems import Problem
from edge_agent.adapters.device_folder import read_receipt
from edge_agent.adapters.noise_record import NoiseRecord
from edge_agent.adapters.refusal import Refusal, read_refusal
from edge_agent.adapters.sample_record import SampleRecord
from edge_agent.adapters.sum_folder import StepRecord, SumFolder
from edge_agent.local.prediction_routes import inputs_of
from edge_agent.trainer.inputs import InputReader
from edge_agent.trainer.series import read_series
from protocol import cbor
from protocol.bundle import ImageFacts, SeriesFacts
from protocol.errors import BundleError, ConfigError, StorageError
from protocol.fields import plain
from protocol.jobs import SampleCharge
from protocol.messages import Receipt, pack_body
from protocol.onnx_operators import ALLOWED
from protocol.onnx_reader import check_graph
from protocol.plan import Plan, SampleDp
from protocol.tflite_reader import check_tflite
from tests.attacks import hostile_litert
from tests.attacks.hostile_graphs import attacks
from tests.fuzz.targets import Target
from tests.protocol import tflite_bytes
from tests.protocol.onnx_bytes import GRAPH, attribute, external, field, graph, model, node, tensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["input_targets"]

WEIGHTS_BYTES: Final = 64
SERIES: Final = SeriesFacts(context=2, horizon=1, channels=1)
PICTURES: Final = ImageFacts(height=2, width=2, channels=1, mean=(0.5,), std=(0.5,))


@cache
def _folder() -> Path:
    memory = Path("/dev/shm")  # noqa: S108 - a new folder is made in it
    folder = Path(tempfile.mkdtemp(prefix="edgefold-fuzz-", dir=memory if memory.is_dir() else None))
    (folder / "sum").mkdir()
    return folder


def feed_onnx(data: bytes) -> None:
    """Read a graph as a device does before any runtime."""
    with contextlib.suppress(BundleError):
        check_graph(data, operators=ALLOWED["portable"][0], weights_name="weights.bin", weights_bytes=WEIGHTS_BYTES)


def feed_tflite(data: bytes) -> None:
    """Read a LiteRT file as a device does before its runtime."""
    with contextlib.suppress(BundleError):
        check_tflite(data)


def seeds_of_tflite() -> list[bytes]:
    """Return a file that is taken and the refused ones of the attacks, but the long one."""
    return [tflite_bytes.GOOD, *(data for _, _, data in hostile_litert.attacks() if len(data) < 4096)]


def _read_steps(folder: Path) -> None:
    SumFolder(folder).step()


def _read_spent(folder: Path) -> None:
    SpentFile(folder / "task.spent").read()


# By the first byte: the file's name in the folder, and what reads it.
READERS: Final[tuple[tuple[str, Callable[[Path], object]], ...]] = (
    ("noise-spent.cbor", lambda folder: NoiseRecord(folder).precision()),
    ("sample-spent.cbor", lambda folder: SampleRecord(folder).summary(max_epsilon=None, delta=None)),
    ("refusal.cbor", read_refusal),
    ("receipt.cbor", read_receipt),
    ("sum/step.cbor", _read_steps),
    ("task.spent", _read_spent),
)


def feed_records(data: bytes) -> None:
    """Read a record, damaged by a bad disk."""
    name, read = READERS[data[0] % len(READERS)] if data else READERS[0]
    (_folder() / name).write_bytes(data[1:])
    with contextlib.suppress(StorageError):
        read(_folder())


def feed_series(data: bytes) -> None:
    """Read time series of a device's owner, as the first byte says."""
    name = "series.csv" if data and data[0] % 2 else "series.jsonl"
    (_folder() / name).write_bytes(data[1:])
    with contextlib.suppress(ConfigError):
        found = read_series(_folder() / name, SERIES, max_examples=10)
        assert 0 < len(found) <= 10
        assert np.isfinite(found.batch([0])["series"]).all()


def feed_http_task(data: bytes) -> None:
    """Read a task that somebody posted."""
    with contextlib.suppress(Problem):
        assert isinstance(routes._decoded(TaskSettings, data), TaskSettings)


def feed_asked(data: bytes) -> None:
    """Read what a program asks a device to predict: pictures or series, as the first byte says."""
    reader = InputReader.__new__(InputReader)
    is_series = bool(data) and data[0] % 2 == 1
    reader.kind = "forecasting" if is_series else "image-classification"
    facts: Any = SimpleNamespace(images=PICTURES, series=SERIES, task=SimpleNamespace(kind=reader.kind), tokens=None)
    reader._manifest, reader._tokenizer = facts, None
    try:
        body = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(ConfigError):
        batch, _ = reader.batch(inputs_of(body, max_inputs=4))
        assert all(np.isfinite(array).all() for array in batch.values())


def seeds_of_onnx() -> list[bytes]:
    """Return good graphs with every kind of part, and the small ones of the attacks."""
    inside = tensor((2, 2), field(9, bytes(16)))
    typed = tensor((2,), field(7, b"\1\2"), data_type=7)
    outside = tensor((4, 4), external(location="weights.bin", offset=0, length=64))
    rich = model(graph(node("Constant", extra=attribute(t=typed)), node("Add"), tensors=(inside, outside)))
    return [GRAPH, rich, *(data for _, _, data in attacks() if len(data) <= 2048)]


def seeds_of_records() -> list[bytes]:
    """Return a good record of each kind."""
    folder = Path(tempfile.mkdtemp(prefix="edgefold-fuzz-"))
    (folder / "data").write_bytes(b"x")
    NoiseRecord(folder).charge("t", 3, noise_multiplier=2.0)
    charge = SampleCharge(folder=str(folder), task="t", training_id="0" * 32)
    plan = Plan(dp=SampleDp(clip=1.0, noise_multiplier=1.0))
    SampleRecord(folder).charge(charge, plan, n_examples=100, data=folder / "data")
    step = StepRecord(task="t", round=1, step="adverts", update_id=bytes(16), state=b"s", directory=b"", envelope=b"e")
    receipt = Receipt(task="t", round=3, update_id=bytes(16), status="refused", reason="late")
    records = [
        (folder / "noise-spent.cbor").read_bytes(),
        (folder / "sample-spent.cbor").read_bytes(),
        cbor.dumps(plain(Refusal(task="t", round=1, why="no"))),
        pack_body(receipt),
        cbor.dumps(plain(step)),
        b"[]",
    ]
    return [bytes([i]) + record for i, record in enumerate(records)]


def input_targets() -> list[Target]:
    """Return the decoders of graphs, requests and records."""
    task = {"id": "mood", "bundle": "b", "rounds": 2, "cohort": 2, "deadline_s": 30.0, "plan": {"epochs": 1}}
    series = [b'\0{"series": [1, 2, 3, 4]}\n', b"\1load\n1\n2\n3\n4\n"]
    asked = [b'\0{"inputs": [{"pixels": [[[1], [2]], [[3], [4]]]}]}', b'\1{"series": [1, 2, 3.5]}']
    return [
        Target(name="onnx", feed=feed_onnx, seeds=seeds_of_onnx),
        Target(name="tflite", feed=feed_tflite, seeds=seeds_of_tflite),
        Target(name="records", feed=feed_records, seeds=seeds_of_records),
        Target(name="series", feed=feed_series, seeds=lambda: series),
        Target(name="http-task", feed=feed_http_task, seeds=lambda: [json.dumps(task).encode()]),
        Target(name="asked", feed=feed_asked, seeds=lambda: asked),
    ]
