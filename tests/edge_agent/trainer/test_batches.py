from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.trainer.batches import TokenisedSet, batches_in_order, shuffled_batches, tokenise
from edge_agent.trainer.examples import Example
from protocol.errors import BundleError
from tests.edge_agent.trainer.samples import PAD_ID, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.trainer.batches import Batch


def ragged(n_examples: int, *, seed: int = 0) -> TokenisedSet:
    """Return examples whose first token is their number and label; lengths 1 to 30."""
    rng = np.random.default_rng(seed)
    ids = [np.full(rng.integers(1, 31), i + 100, np.int32) for i in range(n_examples)]
    return TokenisedSet(ids=ids, labels=np.arange(n_examples, dtype=np.int64), pad_id=PAD_ID)


def orders(batches: list[Batch]) -> list[list[int]]:
    return [batch["labels"].tolist() for batch in batches]


@pytest.mark.parametrize("n_examples", [1, 15, 16, 17, 255, 257, 600])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_every_example_is_in_exactly_one_batch_of_an_epoch(n_examples: int, batch_size: int) -> None:
    data = ragged(n_examples)
    rng = np.random.default_rng(1)
    for batches in (
        list(shuffled_batches(data, batch_size=batch_size, rng=rng)),
        list(batches_in_order(data, batch_size=batch_size)),
    ):
        assert sorted(sum(orders(batches), [])) == list(range(n_examples))  # noqa: RUF017 - short lists
        assert len(batches) == -(-n_examples // batch_size)
        assert max(len(batch["labels"]) for batch in batches) <= batch_size


def test_a_batch_is_padded_to_its_own_longest_and_no_further() -> None:
    data = ragged(40)
    for batch in batches_in_order(data, batch_size=8):
        lengths = [len(data.ids[row]) for row in batch["labels"]]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(lengths), max(lengths))
        for row, ids, mask in zip(batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True):
            n_tokens = len(data.ids[row])
            assert ids[:n_tokens].tolist() == [row + 100] * n_tokens
            assert ids[n_tokens:].tolist() == [PAD_ID] * (len(ids) - n_tokens)
            assert mask.tolist() == [1] * n_tokens + [0] * (len(ids) - n_tokens)
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


def test_the_order_depends_on_the_seed_alone() -> None:
    data = ragged(300)
    epochs = [orders(list(shuffled_batches(data, batch_size=16, rng=np.random.default_rng(s)))) for s in (1, 1, 2)]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]


def test_the_second_epoch_of_a_generator_has_another_order() -> None:
    data, rng = ragged(300), np.random.default_rng(1)
    first, second = (orders(list(shuffled_batches(data, batch_size=16, rng=rng))) for _ in range(2))
    assert first != second


def test_lengths_together_waste_far_less_than_chance() -> None:
    data = ragged(1000)
    useful = sum(len(ids) for ids in data.ids)

    def wasted(batches: list[Batch]) -> float:
        return 1 - useful / sum(batch["input_ids"].size for batch in batches)

    bucketed = wasted(list(shuffled_batches(data, batch_size=16, rng=np.random.default_rng(0))))
    order = np.random.default_rng(0).permutation(1000)
    random = wasted([data.batch(order[i : i + 16]) for i in range(0, 1000, 16)])
    assert bucketed < random / 4  # measured 0.06 against 0.45


def test_batches_come_in_no_order_of_length() -> None:
    data = ragged(1000)
    widths = [b["input_ids"].shape[1] for b in shuffled_batches(data, batch_size=16, rng=np.random.default_rng(0))]
    assert abs(np.corrcoef(widths, range(len(widths)))[0, 1]) < 0.4


def test_texts_become_token_ids_cut_to_the_longest_allowed(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    examples = [Example("the film was good", 1), Example("bad", 0), Example("", 0), Example("never seen", 1)]
    data = tokenise(examples, tokenizer_file=file, pad_id=PAD_ID, max_tokens=5)
    assert [ids.tolist() for ids in data.ids] == [[1, 13, 12, 14, 2], [1, 11, 2], [1, 2], [1, 0, 0, 2]]
    assert data.labels.tolist() == [1, 0, 0, 1]
    assert len(data) == 4


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_even_a_tiny_bound_is_kept(tmp_path: Path, max_tokens: int) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    data = tokenise([Example("the film", 1)], tokenizer_file=file, pad_id=PAD_ID, max_tokens=max_tokens)
    assert 1 <= len(data.ids[0]) <= max_tokens


def test_more_texts_than_one_chunk_keep_their_order(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    examples = [Example("good" if i % 3 else "bad", i % 2) for i in range(1300)]
    data = tokenise(examples, tokenizer_file=file, pad_id=PAD_ID, max_tokens=8)
    assert [ids[1] for ids in data.ids] == [10 if i % 3 else 11 for i in range(1300)]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_tokenizer_is_a_bundle_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="not a tokenizer"):
        tokenise([Example("x", 0)], tokenizer_file=path, pad_id=0, max_tokens=4)
