"""The decoders that read files, pipes and a secure sum's messages; see ``targets`` for the laws."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

import numpy as np

from aggregator.config import Config
from aggregator.config import load_config as load_service
from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.config import AgentConfig
from edge_agent.core.session import SessionState
from edge_agent.trainer import __main__ as trainer
from edge_agent.trainer.examples import MAX_TEXT_CHARS, read_examples
from edge_agent.trainer.images import read_images
from host import arrays
from host.config import load
from host.keys import load_signing_key, load_task_key
from host.trainer_process import TrainerProcess
from protocol import cbor
from protocol.bundle import ImageFacts
from protocol.errors import ConfigError, EdgefoldError, RemoteProtocolError, StorageError
from protocol.fields import plain
from protocol.jobs import Failed, Progress, TrainJob, TrainResult
from protocol.plan import Plan
from protocol.secure_sum import messages
from protocol.secure_sum.device_state import pack_state, unpack_state
from protocol.secure_sum.server import SumServer
from tests.fuzz.targets import Target
from tests.protocol.secure_sum.parties import STEPS, Parties, name_of, plan_for

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["file_targets"]

FACTS: Final = ImageFacts(height=2, width=2, channels=1, mean=(0.5,), std=(0.5,))
MAX_NPZ_BYTES: Final = 1 << 22
RESULT: Final = TrainResult(
    n_examples=1,
    n_steps=1,
    loss=0.5,
    train_s=1.0,
    wall_s=1.0,
    peak_memory_bytes=1,
    update_norm=1.0,
    encoded_bytes=1,
)
AGENT_TOML: Final = b"""[device]
fleet = "garden"
id = "pi-1"
key = "device.key"
bundles = ["bundle"]
[data]
train = "examples.jsonl"
"""
SERVICE_TOML: Final = b"""[service]
fleet = "garden"
folder = "state"
key = "service.key"
[devices]
registry = "devices.toml"
[broker]
insecure_loopback = true
[[task]]
id = "mood"
bundle = "bundle"
rounds = 2
cohort = 2
deadline_s = 30
[task.plan]
epochs = 1
"""


@cache
def _folder() -> Path:
    memory = Path("/dev/shm")  # noqa: S108 - a new folder is made in it
    folder = Path(tempfile.mkdtemp(prefix="edgefold-fuzz-", dir=memory if memory.is_dir() else None))
    (folder / "examples.jsonl").write_text('{"text": "x", "label": 0}\n')
    return folder


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    path = _folder() / name
    path.write_bytes(data)
    path.chmod(0o600)
    yield path


def feed_agent_config(data: bytes) -> None:
    """Read ``agent.toml``."""
    with _file("agent.toml", data) as path, contextlib.suppress(ConfigError):
        assert isinstance(load(AgentConfig, path), AgentConfig)


def feed_service_config(data: bytes) -> None:
    """Read ``aggregator.toml``."""
    with _file("aggregator.toml", data) as path, contextlib.suppress(ConfigError):
        assert isinstance(load_service(path), Config)


def feed_npz(data: bytes) -> None:
    """Read arrays, and the same file as pictures."""
    with _file("batch.npz", data) as path, patch.object(arrays, "MAX_NPZ_BYTES", MAX_NPZ_BYTES):
        with contextlib.suppress(StorageError):
            loaded = arrays.load_npz(path, max_bytes=MAX_NPZ_BYTES)
            assert not any(array.dtype.hasobject for array in loaded.values())
        with contextlib.suppress(ConfigError):
            images = read_images(path, FACTS, n_labels=2, max_examples=10)
            assert len(images) <= 10


def _feed_examples(name: str, data: bytes) -> None:
    with _file(name, data) as path, contextlib.suppress(ConfigError):
        examples = read_examples(path, n_labels=2, max_examples=10)
        assert 0 < len(examples) <= 10
        assert all(len(one.text) <= MAX_TEXT_CHARS and one.label in (0, 1) for one in examples)


def feed_jsonl(data: bytes) -> None:
    """Read examples of a device's owner."""
    _feed_examples("data.jsonl", data)


def feed_csv(data: bytes) -> None:
    """Read examples of a device's owner."""
    _feed_examples("data.csv", data)


def feed_pipe(data: bytes) -> None:
    """Read a line of a trainer as its caller does, and a job as the trainer does."""
    process = TrainerProcess.__new__(TrainerProcess)
    process._result_type = TrainResult
    outcome = process._parse(data)
    assert isinstance(outcome, (Progress, TrainResult, EdgefoldError))
    stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    with patch.object(trainer.sys, "stdin", stdin), contextlib.suppress(ConfigError):
        trainer._read_job()


def feed_keys(data: bytes) -> None:
    """Read key files."""
    with _file("device.key", data) as path:
        for read in (load_signing_key, load_task_key):
            with contextlib.suppress(ConfigError):
                read(path)


def feed_state(data: bytes) -> None:
    """Read the agent's saved state, damaged by a bad disk."""
    folder = DeviceFolder(_folder())
    try:
        (_folder() / "state.cbor").write_bytes(data)
        with contextlib.suppress(StorageError):
            assert isinstance(folder.load_state(), SessionState)
    finally:
        folder.close()


@cache
def _sums() -> dict[str, tuple[Parties, dict[str, bytes], bytes]]:
    """Return for each step a sum that stands there, what each device was sent, and the server's state."""
    sums = {}
    for step in STEPS:
        run = Parties(plan_for(n_params=2), 3)
        sent = run.run_until(step)
        sums[step] = (run, sent, run.server.pack())
    return sums


def feed_sum_server(data: bytes) -> None:
    """Send a message to the server of a sum at the step that the first byte says; its refusal changes nothing."""
    run, _, state = _sums()[STEPS[data[0] % len(STEPS)] if data else STEPS[0]]
    server = SumServer.unpack(state, directory=run.directory)
    try:
        server.receive(name_of(0), data[1:])
    except RemoteProtocolError:
        assert server.pack() == state
    else:
        SumServer.unpack(server.pack(), directory=run.directory)


def feed_sum_device(data: bytes) -> None:
    """Send a message to a device of a sum at the step that the first byte says; its refusal gives nothing away."""
    step = STEPS[1:][data[0] % (len(STEPS) - 1)] if data else STEPS[1]
    run, _, _ = _sums()[step]
    party = run.parties[name_of(0)]
    before = party.state
    with contextlib.suppress(RemoteProtocolError):
        run.answer(step, party, data[1:])
    party.state = before


def feed_sum_stored(data: bytes) -> None:
    """Read stored states of both parties of a sum."""
    run, _, _ = _sums()[STEPS[0]]
    with contextlib.suppress(RemoteProtocolError, ConfigError):
        unpack_state(data)
    with contextlib.suppress(RemoteProtocolError, ConfigError):
        SumServer.unpack(data, directory=run.directory)


def feed_sum_messages(data: bytes) -> None:
    """Decode as the message that the first byte says."""
    kinds = (messages.Advert, messages.Roster, messages.Shares, messages.Delivery, messages.MaskedInput)
    more = (messages.Survivors, messages.Consent, messages.Agreement, messages.Unmask, messages.SumPlan)
    both = (*kinds, *more)
    with contextlib.suppress(RemoteProtocolError):
        message = messages.unpack(both[data[0] % len(both)] if data else both[0], data[1:])
        assert messages.unpack(type(message), messages.pack(message)) == message


def seeds_of_npz() -> list[bytes]:
    """Return a batch and a set of pictures."""
    seeds = []
    for values in (
        {"0/ids": np.zeros((1, 2), np.int64)},
        {"images": np.zeros((2, 2, 2, 1), np.uint8), "labels": np.array([0, 1])},
    ):
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **values)  # type: ignore[operator]
            seeds.append(buffer.getvalue())
    return seeds


def seeds_of_csv() -> list[bytes]:
    """Return two rows, one of them quoted."""
    out = io.StringIO()
    csv.writer(out).writerows([("text", "label"), ('a, "quoted"\ntext', 1), ("b", 0)])
    return [out.getvalue().encode()]


def seeds_of_pipe() -> list[bytes]:
    """Return one line of each kind."""
    job = TrainJob(bundle="b", data="d", out="o", plan=Plan())
    lines = (Progress(step=1, n_steps=2, loss=0.5), RESULT, Failed(blame="engine", error="why"), job)
    return [json.dumps(plain(one)).encode() + b"\n" for one in lines]


def seeds_of_sum_server() -> list[bytes]:
    """Return the right answer of a device at each step."""
    seeds = []
    for index, step in enumerate(STEPS):
        run, sent, _ = _sums()[step]
        party = run.parties[name_of(0)]
        before = party.state
        seeds.append(bytes([index]) + run.answer(step, party, sent[party.name]))
        party.state = before
    return seeds


def seeds_of_sum_device() -> list[bytes]:
    """Return the server's message at each step but the first."""
    return [bytes([i]) + _sums()[step][1][name_of(0)] for i, step in enumerate(STEPS[1:])]


def seeds_of_sum_stored() -> list[bytes]:
    """Return the states of a device and of the server at each step."""
    states = [run.parties[name_of(0)].state for run, _, _ in _sums().values()]
    return [*(pack_state(one) for one in states if one is not None), *(one for _, _, one in _sums().values())]


def file_targets() -> list[Target]:
    """Return the decoders that read files and pipes, and those of secure sums."""
    keys = [b"00" * 32 + b"\n", b"01" * 96 + b"\n"]
    jsonl = [b'{"text": "a", "label": 1}\n{"text": "b", "label": "0"}\n']
    return [
        Target(name="agent-config", feed=feed_agent_config, seeds=lambda: [AGENT_TOML]),
        Target(name="service-config", feed=feed_service_config, seeds=lambda: [SERVICE_TOML]),
        Target(name="npz", feed=feed_npz, seeds=seeds_of_npz),
        Target(name="jsonl", feed=feed_jsonl, seeds=lambda: jsonl),
        Target(name="csv", feed=feed_csv, seeds=seeds_of_csv),
        Target(name="pipe", feed=feed_pipe, seeds=seeds_of_pipe),
        Target(name="keys", feed=feed_keys, seeds=lambda: keys),
        Target(name="state", feed=feed_state, seeds=lambda: [cbor.dumps(plain(SessionState()))]),
        Target(name="sum-messages", feed=feed_sum_messages, seeds=seeds_of_sum_device),
        Target(name="sum-server", feed=feed_sum_server, seeds=seeds_of_sum_server),
        Target(name="sum-device", feed=feed_sum_device, seeds=seeds_of_sum_device),
        Target(name="sum-stored", feed=feed_sum_stored, seeds=seeds_of_sum_stored),
    ]
