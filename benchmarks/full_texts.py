"""Texts of random words that fill a shape of batches and touch much of an embedding: what memory runs train on."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_full_texts"]


def write_full_texts(path: Path, *, bundle: Path, n_texts: int, seq: int) -> Path:
    """Write ``n_texts`` labelled texts of ``seq`` words, one token each by the bundle's tokenizer; return ``path``."""
    vocabulary = json.loads((bundle / "tokenizer.json").read_bytes())["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalnum() and len(word) > 2)
    draw = random.Random(0)  # noqa: S311 - texts, no secrets
    lines = ({"text": " ".join(draw.choices(words, k=seq)), "label": i % 2} for i in range(n_texts))
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path
