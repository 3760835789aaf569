"""Turns what a person or program asks into a batch: inputs without labels, as plain values from JSON.

    text-classification    {"text": "..."}
    token-classification   {"tokens": ["...", ...]}
    image-classification   {"pixels": [[[level, ...], ...], ...]}, levels 0 to 255, height x width x channel
    forecasting            {"series": [...]}, numbers, or rows of numbers; the last ``context`` steps count

Laws: every value is checked before it is used, an error names the input's number and never shows it; a task whose
evaluation graph gives nothing to tell (causal-lm, sentence-embedding, image-text give losses and hits) is refused in
one line. Memory: one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.trainer.batches import TokenisedSet, load_tokenizer, token_ids
from edge_agent.trainer.examples import MAX_TEXT_CHARS
from edge_agent.trainer.images import ImageSet
from protocol.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from edge_agent.trainer.batches import Batch
    from host.bundle_folder import Bundle
    from protocol.bundle import ImageFacts, SeriesFacts

__all__ = ["InputReader"]

_MAX_WORDS: Final = 8192
_TELLING: Final = ("text-classification", "token-classification", "image-classification", "forecasting")


class InputReader:
    """Makes batches of inputs for one bundle."""

    def __init__(self, bundle: Bundle, *, max_tokens: int) -> None:
        """Read the bundle's tokenizer, if its task is on text.

        Raises:
            BundleError: the tokenizer is none, or the manifest lacks what the task's inputs need.
            ConfigError: nothing can be predicted for this task.
        """
        self._manifest = manifest = bundle.manifest
        self.kind = manifest.task.kind
        if self.kind not in _TELLING:
            raise ConfigError(
                f"{bundle.folder}: nothing to tell for {self.kind}: its evaluation graph gives losses, no predictions"
            )
        self._tokenizer: Tokenizer | None = None
        if manifest.tokens is not None:
            self._longest = min(max_tokens, manifest.tokens.max_tokens)
            self._tokenizer = load_tokenizer(bundle.path(manifest.tokens.file), max_tokens=self._longest)

    def batch(self, inputs: Sequence[Any]) -> tuple[Batch, list[NDArray[np.int64]]]:
        """Return the inputs as one batch and, for words, the position of each word's first token.

        Raises:
            ConfigError: an input is not what the task takes (the asker's fault).
            BundleError: the manifest lacks what the task needs.
        """
        if not inputs:
            raise ConfigError("no inputs")
        rows = [_mapping(one, i) for i, one in enumerate(inputs)]
        match self.kind:
            case "text-classification":
                return self._texts([_text(row, i) for i, row in enumerate(rows)]), []
            case "token-classification":
                return self._words([_word_list(row, i) for i, row in enumerate(rows)])
            case "image-classification":
                return self._pictures(rows), []
            case _:
                return self._series(rows), []

    def _texts(self, texts: list[str]) -> Batch:
        tokenizer, pad_id = self._text_parts()
        ids = token_ids(tokenizer, texts, pad_id=pad_id, max_tokens=self._longest)
        return TokenisedSet(ids=ids, labels=None, pad_id=pad_id).batch(range(len(ids)))

    def _words(self, lines: list[list[str]]) -> tuple[Batch, list[NDArray[np.int64]]]:
        tokenizer, pad_id = self._text_parts()
        ids, firsts = [], []
        for words in lines:
            encoded = tokenizer.encode(words, is_pretokenized=True)
            ids.append(np.array(encoded.ids[: self._longest] or [pad_id], np.int32))
            _, first = np.unique([-1 if one is None else one for one in encoded.word_ids], return_index=True)
            real = [at for at in first if encoded.word_ids[at] is not None and at < self._longest]
            firsts.append(np.array(sorted(real), np.int64))  # [n_words]
        return TokenisedSet(ids=ids, labels=None, pad_id=pad_id).batch(range(len(ids))), firsts

    def _pictures(self, rows: list[dict[str, Any]]) -> Batch:
        facts = self._manifest.images
        if facts is None:
            raise BundleError("the manifest says nothing of the pictures")
        pictures = np.stack([_picture(row, i, facts) for i, row in enumerate(rows)])  # [n, height, width, channel]
        return ImageSet(images=pictures, labels=None, facts=facts).batch(range(len(pictures)))

    def _series(self, rows: list[dict[str, Any]]) -> Batch:
        facts = self._manifest.series
        if facts is None:
            raise BundleError("the manifest says nothing of the series")
        return {"series": np.stack([_steps(row, i, facts) for i, row in enumerate(rows)])}

    def _text_parts(self) -> tuple[Tokenizer, int]:
        if self._tokenizer is None or self._manifest.tokens is None:
            raise BundleError("the manifest has no tokenizer")
        return self._tokenizer, self._manifest.tokens.pad_id


def _mapping(one: Any, i: int) -> dict[str, Any]:  # noqa: ANN401 - whatever was sent
    if not isinstance(one, dict):
        raise ConfigError(f"input {i}: expected an object, got {type(one).__name__}")
    return one


def _text(row: dict[str, Any], i: int) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise ConfigError(f"input {i}: expected a text under 'text'")
    return _valid(text, i)


def _word_list(row: dict[str, Any], i: int) -> list[str]:
    words = row.get("tokens")
    if not isinstance(words, list) or not 0 < len(words) <= _MAX_WORDS:
        raise ConfigError(f"input {i}: expected 1 to {_MAX_WORDS} words under 'tokens'")
    if not all(isinstance(word, str) for word in words):
        raise ConfigError(f"input {i}: a word is no text")
    return [_valid(word, i) for word in words]


def _valid(text: str, i: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, as JSON may write it
        raise ConfigError(f"input {i}: the text is not valid Unicode") from error
    return text[:MAX_TEXT_CHARS]


def _picture(row: dict[str, Any], i: int, facts: ImageFacts) -> NDArray[np.uint8]:
    expected = (facts.height, facts.width, facts.channels)
    values = _numbers(row.get("pixels"), i, "pixels")
    if values.shape != expected or (values < 0).any() or (values > 255).any():
        wanted = " x ".join(map(str, expected))
        raise ConfigError(f"input {i}: expected {wanted} levels of 0 to 255 under 'pixels'")
    return values.astype(np.uint8)


def _steps(row: dict[str, Any], i: int, facts: SeriesFacts) -> NDArray[np.float32]:
    values = _numbers(row.get("series"), i, "series")
    steps = values[:, None] if values.ndim == 1 else values  # [time, channel]
    if steps.ndim != 2 or steps.shape[1] != facts.channels or len(steps) < facts.context:
        raise ConfigError(f"input {i}: expected {facts.context} steps or more of {facts.channels} under 'series'")
    return steps[-facts.context :].astype(np.float32)


def _numbers(values: Any, i: int, name: str) -> NDArray[np.float64]:  # noqa: ANN401 - whatever was sent
    if not isinstance(values, list):
        raise ConfigError(f"input {i}: expected numbers under '{name}'")
    try:
        found = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"input {i}: expected numbers under '{name}'") from error
    if not (np.abs(found) < np.finfo(np.float32).max).all():  # NaN too
        raise ConfigError(f"input {i}: a value under '{name}' is missing, infinite or too large")
    return found
