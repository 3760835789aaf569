from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.trainer.datasets import Scores, judge, open_dataset
from host.bundle_folder import Bundle
from protocol.bundle import TaskFacts
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


@pytest.mark.parametrize("task", [TaskFacts(kind="forecasting", n_labels=2), TaskFacts(kind="text-classification")])
def test_a_task_that_is_unknown_or_lacks_labels_is_the_bundles_fault(task: TaskFacts, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not know the task"):
        dataset(tmp_path, task, '{"text": "good"}')


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
