"""A small tokenizer and examples, made here so that no model is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers, processors

if TYPE_CHECKING:
    from pathlib import Path

PAD_ID = 7
WORDS = ("good", "bad", "film", "the", "was")


def write_tokenizer(path: Path) -> Path:
    """Write a word tokenizer with start and end marks, as BERT has them."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {word: 10 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(path))
    return path
