from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.trainer.datasets import open_dataset
from edge_agent.trainer.scores import Scores, judge
from host.bundle_folder import Bundle
from protocol.bundle import IGNORED, TaskFacts
from protocol.errors import BundleError, ConfigError
from tests.edge_agent.trainer.samples import PAD_ID, write_tokenizer
from tests.protocol import samples

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.trainer.batches import Dataset


def dataset(folder: Path, task: TaskFacts, line: str) -> Dataset:
    write_tokenizer(folder / "tokenizer.json")
    (folder / "data.jsonl").write_text(line + "\n", "utf-8")
    bundle = Bundle(folder=folder, id="0" * 64, manifest=samples.manifest(task=task), layout=samples.LAYOUT)
    return open_dataset(bundle, folder / "data.jsonl", max_tokens=9, max_examples=9)


def test_a_language_model_needs_no_label_and_gets_none(tmp_path: Path) -> None:
    data = dataset(tmp_path, TaskFacts(kind="causal-lm"), '{"text": "good film", "label": "x"}')
    assert set(data.batch([0])) == {"input_ids", "attention_mask"}


def test_a_text_of_one_token_is_padded_to_two_for_a_language_model(tmp_path: Path) -> None:
    task = TaskFacts(kind="causal-lm")
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "data.jsonl").write_text('{"text": "good"}\n', "utf-8")
    bundle = Bundle(folder=tmp_path, id="0" * 64, manifest=samples.manifest(task=task), layout=samples.LAYOUT)
    batch = open_dataset(bundle, tmp_path / "data.jsonl", max_tokens=1, max_examples=9).batch([0])
    assert batch["input_ids"].tolist() == [[1, samples.manifest().tokens.pad_id]]  # type: ignore[union-attr]
    assert batch["attention_mask"].tolist() == [[1, 0]]
    assert PAD_ID not in batch["input_ids"]


def test_a_line_without_a_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.jsonl:1: expected a text under 'text'"):
        dataset(tmp_path, TaskFacts(kind="causal-lm"), '{"label": 1}')


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (TaskFacts(kind="surgery", n_labels=2), "does not know the task"),
        (TaskFacts(kind="text-classification"), "needs exactly labels, tokens"),
        (TaskFacts(kind="forecasting"), "needs exactly series"),
        (TaskFacts(kind="image-text"), "needs exactly tokens, images"),
    ],
)
def test_a_task_unknown_or_without_a_part_is_the_bundles_fault(task: TaskFacts, says: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=says):
        dataset(tmp_path, task, '{"text": "good"}')


def test_a_words_label_stands_at_its_first_token(tmp_path: Path) -> None:
    task = TaskFacts(kind="token-classification", n_labels=3)
    data = dataset(tmp_path, task, '{"tokens": ["good", "film"], "labels": [2, 0]}')
    batch = data.batch([0])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert [label for label in batch["labels"][0].tolist() if label != IGNORED] == [2, 0]


@pytest.mark.parametrize(
    "line",
    [
        '{"tokens": ["good"], "labels": [1, 0]}',
        '{"tokens": [], "labels": []}',
        '{"tokens": ["good"], "labels": [3]}',
        '{"tokens": ["good"], "labels": [true]}',
        '{"tokens": [1], "labels": [1]}',
        '{"tokens": ["\\ud800"], "labels": [1]}',
        "[]",
    ],
)
def test_a_line_of_words_that_cannot_be_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.jsonl:1: "):
        dataset(tmp_path, TaskFacts(kind="token-classification", n_labels=3), line)


def test_a_pair_is_two_texts_of_one_length(tmp_path: Path) -> None:
    data = dataset(tmp_path, TaskFacts(kind="sentence-embedding"), '{"text": "good film", "pair": "good"}')
    batch = data.batch([0])
    assert batch["input_ids"].shape == (1, 2, 4)  # with a mark before and behind
    assert batch["attention_mask"].tolist() == [[[1, 1, 1, 1], [1, 1, 1, 0]]]
    with pytest.raises(ConfigError, match=r"data\.jsonl:1: expected texts under 'text' and 'pair'"):
        dataset(tmp_path, TaskFacts(kind="sentence-embedding"), '{"text": "good film"}')


def test_labelled_words_alone_are_judged() -> None:
    logits = np.zeros((1, 3, 2), np.float32)
    found = judge({"logits": logits}, {"labels": np.array([[0, IGNORED, 1]])})
    assert (found.n_scored, found.n_correct) == (2, 1)
    assert found.loss == pytest.approx(2 * math.log(2))


def test_a_forecast_is_held_against_repeating_the_last_value() -> None:
    series = np.array([[[0.0], [2.0]], [[0.0], [2.0]]], np.float32)  # variance 1
    future = np.array([[[4.0]], [[2.5]]], np.float32)
    found = judge({"forecasts": np.array([[[3.0]], [[4.0]]], np.float32)}, {"series": series, "future": future})
    assert (found.n_scored, found.n_correct) == (2, 1)
    assert found.loss == pytest.approx(1 + 1.5**2, rel=1e-4)


def test_logits_are_judged_by_example() -> None:
    logits = np.array([[0.0, 0.0], [0.0, math.log(3)]], np.float32)
    found = judge({"logits": logits}, {"labels": np.array([1, 1])})
    assert (found.n_scored, found.n_correct) == (2, 1)
    assert found.loss == pytest.approx(math.log(2) + math.log(4 / 3))


def test_token_losses_are_judged_by_token() -> None:
    outputs = {"losses": np.array([[1.5, 0.0]], np.float32), "hits": np.array([[1.0, 0.0]], np.float32)}
    found = judge(outputs, {"attention_mask": np.array([[1, 1, 0]])}) + Scores(3, 1, 0.5)
    assert found == Scores(4, 2, 2.0)


def test_other_outputs_are_the_bundles_fault() -> None:
    with pytest.raises(BundleError, match="gives scores; expected logits"):
        judge({"scores": np.zeros(1, np.float32)}, {})
