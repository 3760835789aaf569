"""A tiny bundle with random weights, exported once for all workers, and devices' data that it can learn."""

from __future__ import annotations

import fcntl
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

WORDS = {0: ["bad", "awful", "poor", "sad"], 1: ["good", "great", "fine", "glad"]}
FILLER = [f"w{i}" for i in range(60)]


def write_model(folder: Path) -> None:
    """Write a Hugging Face folder with a two-layer BERT of random weights and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS[0], *WORDS[1], *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # the usual 0.02 gives attention so even that a word among ten does not show
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_data(path: Path, n: int, seed: int) -> Path:
    """Write texts whose label three of their words tell."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        label = rng.randrange(2)
        words = [*rng.choices(FILLER, k=rng.randrange(3, 8)), *rng.choices(WORDS[label], k=3)]
        rng.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words), "label": label}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent  # pytest-xdist's workers have folders side by side
    bundle = shared / "tiny-bundle"
    with (shared / "tiny-bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.is_dir():
            model = shared / "tiny-model"
            model.mkdir(exist_ok=True)
            write_model(model)
            options = ["--task", "text-classification", "--labels", "2", "--rank", "4", "--max-tokens", "32"]
            command = [sys.executable, "-m", "edgefold", "export", str(model), *options, "--out", str(bundle)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    return bundle


@pytest.fixture
def devices(tmp_path: Path) -> dict[str, Path]:
    return {f"device-{i}": write_data(tmp_path / f"train-{i}.jsonl", 96, seed=i) for i in range(4)}


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    return write_data(tmp_path / "test.jsonl", 200, seed=99)
