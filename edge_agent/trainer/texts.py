"""Reads and tokenises what is more than a text with a label: tagged words, pairs of texts, pictures with captions.

Laws: as ``edge_agent.trainer.examples`` and ``batches``; what is cut off at ``max_tokens`` is gone, its labels too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.trainer.batches import TokenisedSet, load_tokenizer, token_ids
from edge_agent.trainer.examples import MAX_TEXT_CHARS, read_rows
from edge_agent.trainer.images import ImageSet, read_pictures
from protocol.bundle import IGNORED
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.trainer.batches import Batch
    from protocol.bundle import ImageFacts

__all__ = ["CaptionedSet", "PairSet", "TaggedSet", "read_captioned", "read_pairs", "read_tagged"]

_MAX_WORDS: Final = 8192  # of one line; no model of ours takes more tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedSet:
    """Texts as token ids, and a label for each token, ``IGNORED`` where none stands (int64, ragged)."""

    texts: TokenisedSet
    labels: list[NDArray[np.int64]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each example, int64 [n]."""
        return self.texts.lengths

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> Batch:
        """Return ``rows`` as input_ids, attention_mask and labels, int64 [batch, seq]."""
        batch = self.texts.batch(rows)
        labels = np.full(batch["input_ids"].shape, IGNORED, np.int64)
        for i, row in enumerate(rows):
            labels[i, : len(self.labels[row])] = self.labels[row]
        return batch | {"labels": labels}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """Pairs of texts: the first and the second of each, in the same order."""

    firsts: TokenisedSet
    seconds: TokenisedSet

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of the longer text of each pair, int64 [n]."""
        return np.maximum(self.firsts.lengths, self.seconds.lengths)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.firsts)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> Batch:
        """Return ``rows`` as input_ids and attention_mask, int64 [batch, 2, seq]."""
        both = [self.firsts.batch(rows), self.seconds.batch(rows)]
        longest = max(one["input_ids"].shape[1] for one in both)
        pads = {"input_ids": self.firsts.pad_id, "attention_mask": 0}
        return {
            name: np.stack([_padded(one[name], longest, pad) for one in both], axis=1)  # [batch, 2, seq]
            for name, pad in pads.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedSet:
    """Pictures, each with a text."""

    images: ImageSet
    captions: TokenisedSet

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each caption, int64 [n]."""
        return self.captions.lengths

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.captions)

    def batch(self, rows: Sequence[int] | NDArray[Any]) -> Batch:
        """Return ``rows`` as pixel_values [batch, channel, height, width], input_ids, attention_mask [batch, seq]."""
        return self.images.batch(rows) | self.captions.batch(rows)


def read_tagged(
    path: Path, *, n_labels: int, tokenizer_file: Path, pad_id: int, max_tokens: int, max_examples: int
) -> TaggedSet:
    """Return lines of ``{"tokens": [words], "labels": [integers]}``; a word's label stands at its first token.

    Raises:
        BundleError: the bundle's tokenizer file is not one.
        ConfigError: another format, or a line without as many labels as words.
    """
    rows = [_tagged(row, where, n_labels) for where, row in read_rows(path, max_rows=max_examples, labelled=True)]
    tokenizer = load_tokenizer(tokenizer_file, max_tokens=max_tokens)
    ids, labels = [], []
    for words, tags in rows:
        encoded = tokenizer.encode(words, is_pretokenized=True)
        ids.append(np.array(encoded.ids[:max_tokens] or [pad_id], np.int32))
        before = [None, *encoded.word_ids]
        firsts = [
            tags[word] if word is not None and word != last else IGNORED
            for word, last in zip(encoded.word_ids, before, strict=False)
        ]
        labels.append(np.array(firsts[:max_tokens] or [IGNORED], np.int64))
    return TaggedSet(texts=TokenisedSet(ids=ids, labels=None, pad_id=pad_id), labels=labels)


def read_pairs(path: Path, *, tokenizer_file: Path, pad_id: int, max_tokens: int, max_examples: int) -> PairSet:
    """Return lines of ``text`` and ``pair``: two texts that belong together.

    Raises:
        BundleError: the bundle's tokenizer file is not one.
        ConfigError: another format, or a line without both.
    """
    rows = list(read_rows(path, max_rows=max_examples))
    tokenizer = load_tokenizer(tokenizer_file, max_tokens=max_tokens)
    sides = [
        TokenisedSet(
            ids=token_ids(
                tokenizer, [_text(row, key, where) for where, row in rows], pad_id=pad_id, max_tokens=max_tokens
            ),
            labels=None,
            pad_id=pad_id,
        )
        for key in ("text", "pair")
    ]
    return PairSet(firsts=sides[0], seconds=sides[1])


def read_captioned(
    path: Path, facts: ImageFacts, *, tokenizer_file: Path, pad_id: int, max_tokens: int, max_examples: int
) -> CaptionedSet:
    """Return the pictures of an .npz with ``images`` (as ``read_images``) and ``captions``, texts [n].

    Raises:
        BundleError: the bundle's tokenizer file is not one.
        ConfigError: another format, or not as many captions as pictures.
    """
    images, captions = read_pictures(path, facts, also="captions")
    if captions.dtype.kind != "U" or captions.shape != (len(images),):
        raise ConfigError(f"{path}: captions are {captions.dtype} {captions.shape}, expected {len(images)} texts")
    tokenizer = load_tokenizer(tokenizer_file, max_tokens=max_tokens)
    texts = [str(caption)[:MAX_TEXT_CHARS] for caption in captions[:max_examples]]
    ids = token_ids(tokenizer, texts, pad_id=pad_id, max_tokens=max_tokens)
    return CaptionedSet(
        images=ImageSet(images=images[:max_examples], labels=None, facts=facts),
        captions=TokenisedSet(ids=ids, labels=None, pad_id=pad_id),
    )


def _tagged(row: Any, where: str, n_labels: int) -> tuple[list[str], list[int]]:  # noqa: ANN401 - whatever it holds
    words, labels = (row.get("tokens"), row.get("labels")) if isinstance(row, dict) else (None, None)
    if not isinstance(words, list) or not isinstance(labels, list) or not 0 < len(words) == len(labels) <= _MAX_WORDS:
        raise ConfigError(f"{where}: expected words under 'tokens' and as many labels under 'labels'")
    if not all(isinstance(word, str) and _is_unicode(word) for word in words):
        raise ConfigError(f"{where}: a word is no valid text")
    if not all(type(label) is int and 0 <= label < n_labels for label in labels):
        raise ConfigError(f"{where}: a label is not one of 0 to {n_labels - 1}")
    return words, labels


def _text(row: Any, key: str, where: str) -> str:  # noqa: ANN401 - likewise
    text = row.get(key) if isinstance(row, dict) else None
    if not isinstance(text, str) or not _is_unicode(text):
        raise ConfigError(f"{where}: expected texts under 'text' and 'pair'")
    return text[:MAX_TEXT_CHARS]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may write it
        return False
    return True


def _padded(rows: NDArray[np.int64], length: int, value: int) -> NDArray[np.int64]:
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])), constant_values=value)
