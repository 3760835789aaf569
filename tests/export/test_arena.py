"""The arena's first block: sized by the bundle's plan, and never what decides whether a batch can be run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.trainer.arena import activation_bytes
from export.bundle import Exported
from host.memory import machine_bytes
from protocol.bundle import MemoryPeak

MB = 2**20
# An arena is made once for a process, so each plan gets its own.
RUN = """
import hashlib, json, resource, sys
from pathlib import Path
import numpy as np
import edge_agent.trainer.portable as portable
from host.memory import private_bytes
from protocol.bundle import MemoryPeak
folder, per_example, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
plan = tuple(MemoryPeak(batch=n, seq=20, peak_bytes=n * per_example) for n in (1, 2)) if per_example else ()
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
train = folder / "train.onnx"
engine = portable.PortableEngine(train=train, evaluate=folder / "eval.onnx", threads=1, plans={train: plan})
theta, rng, found = np.fromfile(folder / "adapter.f32", np.float32), np.random.default_rng(0), hashlib.sha256()
before = private_bytes()
for n_examples, n_tokens in ((16, 20), (3, 7), (64, 20), (16, 20)):
    ids = rng.integers(2, 200, (n_examples, n_tokens))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.arange(n_examples) % 3}
    loss, gradient = engine.loss_and_gradient(theta, batch)
    found.update(gradient.tobytes() + np.float32(loss).tobytes())
    found.update(engine.scores(theta, batch)["logits"].tobytes())
print(json.dumps([found.hexdigest(), private_bytes() - before]))
"""


def run(folder: Path, per_example: int, limit: int = 0) -> tuple[str, int]:
    """Return a digest of what some batches gave, and by how much the process's private memory grew."""
    command = [sys.executable, "-c", RUN, str(folder), str(per_example), str(limit)]
    digest, grown = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return digest, grown


def test_a_plan_says_what_the_activations_of_a_batch_take() -> None:
    plan = [
        MemoryPeak(batch=batch, seq=seq, peak_bytes=100 * MB + batch * seq * 1000)
        for seq in (32, 64)
        for batch in (1, 2, 16)
    ]
    assert activation_bytes(plan, batch=16, seq=64) == 16 * 64 * 1000
    assert activation_bytes(plan, batch=5, seq=48) == 5 * 48 * 1000
    assert activation_bytes(plan, batch=100, seq=32) == 100 * 32 * 1000
    assert activation_bytes(plan, batch=4, seq=65) == 0
    assert activation_bytes(plan[:1], batch=4, seq=32) == 0
    assert activation_bytes([], batch=4, seq=32) == 0
    assert activation_bytes([*plan[:1], *plan[:1]], batch=4, seq=32) == 0
    falling = [MemoryPeak(batch=1, peak_bytes=900), MemoryPeak(batch=2, peak_bytes=100)]
    assert activation_bytes(falling, batch=4, seq=None) == 0


def test_a_plan_for_examples_of_one_size_has_no_lengths() -> None:
    plan = [MemoryPeak(batch=batch, peak_bytes=7 * MB + batch * 1000) for batch in (1, 8)]
    assert activation_bytes(plan, batch=3, seq=None) == 3000


@pytest.mark.parametrize("per_example", [1, 64 * 1024, 64 * MB, machine_bytes(), 2**48])
def test_a_batch_gives_the_same_whatever_the_plan_says(per_example: int, exported: Exported) -> None:
    digest, unplanned = run(exported.folder, 0)
    planned, grown = run(exported.folder, per_example)
    assert planned == digest
    block = 16 * per_example
    if MB < block < machine_bytes():
        assert grown > block
    else:
        assert grown < unplanned + 16 * MB


def test_a_process_with_a_limit_keeps_room_for_what_is_not_the_arenas(exported: Exported) -> None:
    digest, _ = run(exported.folder, 0)
    planned, grown = run(exported.folder, 64 * MB, limit=1024 * MB)  # the block would be the limit and more
    assert planned == digest
    assert grown < 512 * MB
