"""One tiny random BERT and its bundle, exported once a session."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.adapt import Adapted, Options, adapt
from export.bundle import Exported, export_bundle
from export.load import Source, load

VOCABULARY = 211  # so that the table of embeddings is large enough to be stored outside the graph
OPTIONS = Options(n_labels=3, rank=2, alpha=4.0, max_tokens=20, seed=3)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder: 2 layers of 24, 4 heads, random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("model") / "tiny-bert"
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(11)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=180,
            max_position_embeddings=32,
            initializer_range=0.2,
        )
        BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def source(tiny_folder: Path) -> Source:
    return load(str(tiny_folder))


@pytest.fixture(scope="session")
def adapted(source: Source) -> Adapted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapt(source, OPTIONS)


@pytest.fixture(scope="session")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export_bundle(str(tiny_folder), OPTIONS, tmp_path_factory.mktemp("out") / "bundle")


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may spoil."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def options() -> Options:
    return OPTIONS


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, np.ndarray]]:
    return a_batch


def a_batch(n_examples: int, n_tokens: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return a batch with ragged lengths, the first example the longest."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, n_tokens + 1, n_examples)
    lengths[0] = n_tokens
    mask = (np.arange(n_tokens) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, VOCABULARY, (n_examples, n_tokens)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, OPTIONS.n_labels, n_examples)}
