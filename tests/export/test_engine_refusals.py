"""What an engine cannot train is refused before the long passes, with what to do."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from export.adapt import Adapted, Options, adapt
from export.engines import failure_in, refuse_impossible, refuse_tables
from export.load import load
from models.tiny import write_tiny
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from export.load import Source


def full(source: Source, options: Options) -> Adapted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapt(source, replace(options, adapter="full"))


@pytest.mark.parametrize(
    ("engine", "why"), [("litert", "no operation for its gradient"), ("ort-training", "padding token's")]
)
def test_a_table_of_words_is_trained_by_the_portable_engine_alone(
    source: Source, options: Options, engine: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)embedding table .*word_embeddings.*{why}.*leave out {engine}"):
        refuse_tables(("portable", engine), full(source, options))
    refuse_tables(("portable",), full(source, options))


def test_a_table_without_a_padding_row_goes_with_onnxruntime_training(tmp_path: Path) -> None:
    write_tiny("gpt2", tmp_path / "gpt2")
    decoder = full(load(str(tmp_path / "gpt2")), Options(task="causal-lm", max_tokens=20))
    refuse_tables(("portable", "ort-training"), decoder)
    with pytest.raises(ConfigError, match="litert cannot train the embedding table"):
        refuse_tables(("portable", "litert"), decoder)


def test_soft_prompts_and_lora_train_no_table_of_the_model(adapted: Adapted, source: Source, options: Options) -> None:
    refuse_tables(("portable", "ort-training", "litert"), adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompted = adapt(source, replace(options, adapter="soft-prompt", n_virtual=3))
    refuse_tables(("portable", "ort-training", "litert"), prompted)


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        (
            "Traceback (most recent call last):\n  File x\ntorch.Oh.NoError: split\nUse tlparse to see more.\n",
            "torch.Oh.NoError: split",
        ),
        ("a warning\nkilled\n\n", "killed"),
        ("", ""),
    ],
)
def test_a_converters_own_error_is_told_and_not_the_advice_behind_it(stderr: str, why: str) -> None:
    assert failure_in(stderr) == why


@pytest.mark.parametrize(
    ("engines", "facts", "why"),
    [
        (("ort-training",), {}, "portable must be among them"),
        (("portable", "torch"), {}, "no engine is called 'torch'"),
        (("portable", "litert"), {"precision": "nb4"}, "float32 weights only"),
        (("portable", "litert"), {"has_dropout": True}, "given no dropout masks"),
        (("portable", "litert"), {"task": "sentence-embedding"}, "litert cannot train sentence-embedding"),
    ],
)
def test_what_no_environment_could_do_is_refused_with_the_reason(
    engines: tuple[str, ...], facts: dict[str, object], why: str
) -> None:
    task = {"task": "text-classification", "precision": "fp32", **facts}
    with pytest.raises(ConfigError, match=why):
        refuse_impossible(engines, **task)  # type: ignore[arg-type]  # a table of arguments
