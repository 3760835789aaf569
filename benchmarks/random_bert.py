"""BERT-like encoders with random weights, of any depth and width: what benchmarks of sizes export."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VOCABULARY", "write_random_bert", "write_words"]

VOCABULARY = 1000
HEAD_WIDTH = 32


def write_random_bert(folder: Path, *, layers: int, width: int, tokens: int) -> Path:
    """Write a model and a tokenizer that knows the words ``w5`` to ``w999``; return the folder."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=4 * width,
        max_position_embeddings=tokens,
    )
    BertModel(config).save_pretrained(folder)
    write_words(folder, VOCABULARY)
    return folder


def write_words(folder: Path, n_words: int) -> None:
    """Write a tokenizer of ``n_words`` ids: five marks, then the words ``w5``, ``w6``, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415 - takes a second

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: number for number, word in enumerate([*special, *(f"w{i}" for i in range(5, n_words))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
